/* The agent of the tests: a Windows service that reads its site's URL from the registry and writes a heartbeat.
 *
 *   agent.exe          run by the service manager; without a URL it stops with exit code 2
 *   agent.exe version  prints its version
 *   agent.exe state    prints the number of the service's state (4 runs, 1 stopped) and what it last stopped with;
 *                      exits with the Windows error, 1060 when there is no such service
 */
#include <stdio.h>
#include <string.h>
#include <windows.h>
#include <shlobj.h>

#define SERVICE "MspTestAgent"
#define KEY "SOFTWARE\\Msp Test Agent"
#define LOG_FOLDER "\\Msp Test Agent"
#define URL_MAX 1024

static SERVICE_STATUS_HANDLE handle;
static HANDLE stopping;

static void report(DWORD state, DWORD exit_code)
{
    SERVICE_STATUS status = {SERVICE_WIN32_OWN_PROCESS, state, 0, exit_code, 0, 0, 0};
    if (state == SERVICE_RUNNING)
        status.dwControlsAccepted = SERVICE_ACCEPT_STOP | SERVICE_ACCEPT_SHUTDOWN;
    SetServiceStatus(handle, &status);
}

static DWORD WINAPI control(DWORD code, DWORD kind, void *data, void *context)
{
    (void)kind, (void)data, (void)context;
    if (code == SERVICE_CONTROL_STOP || code == SERVICE_CONTROL_SHUTDOWN) {
        report(SERVICE_STOP_PENDING, NO_ERROR);
        SetEvent(stopping);
    }
    return NO_ERROR;
}

/* One line a second: when, which version, for whom. A full disk or a held file costs a line, not the service. */
static void beat(const char *url)
{
    char path[MAX_PATH + sizeof LOG_FOLDER + 16];
    SYSTEMTIME now;
    /* Asked of the shell: Wine hands services a wrong %ProgramData%. */
    if (SHGetFolderPathA(NULL, CSIDL_COMMON_APPDATA, NULL, SHGFP_TYPE_CURRENT, path) != S_OK)
        return;
    strcat(path, LOG_FOLDER);
    CreateDirectoryA(path, NULL);
    strcat(path, "\\heartbeat.log");
    FILE *file = fopen(path, "a");
    if (file == NULL)
        return;
    GetSystemTime(&now);
    fprintf(file, "%04u-%02u-%02uT%02u:%02u:%02uZ %s %s\n", now.wYear, now.wMonth, now.wDay, now.wHour, now.wMinute,
            now.wSecond, AGENT_VERSION, url);
    fclose(file);
}

static void WINAPI run(DWORD count, char **arguments)
{
    char url[URL_MAX] = "";
    DWORD size = sizeof url;
    (void)count, (void)arguments;
    handle = RegisterServiceCtrlHandlerExA(SERVICE, control, NULL);
    stopping = CreateEventA(NULL, TRUE, FALSE, NULL);
    if (handle == NULL || stopping == NULL)
        return;
    report(SERVICE_START_PENDING, NO_ERROR);
    if (RegGetValueA(HKEY_LOCAL_MACHINE, KEY, "CentralUrl", RRF_RT_REG_SZ, NULL, url, &size) != ERROR_SUCCESS
        || url[0] == '\0') {
        report(SERVICE_STOPPED, ERROR_FILE_NOT_FOUND);
        return;
    }
    report(SERVICE_RUNNING, NO_ERROR);
    do
        beat(url);
    while (WaitForSingleObject(stopping, 1000) == WAIT_TIMEOUT);
    report(SERVICE_STOPPED, NO_ERROR);
}

static int state(void)
{
    SERVICE_STATUS status;
    SC_HANDLE manager = OpenSCManagerA(NULL, NULL, SC_MANAGER_CONNECT);
    SC_HANDLE service = manager ? OpenServiceA(manager, SERVICE, SERVICE_QUERY_STATUS) : NULL;
    if (service == NULL || !QueryServiceStatus(service, &status))
        return (int)GetLastError();
    printf("%lu %lu\n", status.dwCurrentState, status.dwWin32ExitCode);
    return 0;
}

int main(int count, char **arguments)
{
    SERVICE_TABLE_ENTRYA table[] = {{(char *)SERVICE, run}, {NULL, NULL}};
    if (count == 2 && strcmp(arguments[1], "version") == 0) {
        puts(AGENT_VERSION);
        return 0;
    }
    if (count == 2 && strcmp(arguments[1], "state") == 0)
        return state();
    return count == 1 && StartServiceCtrlDispatcherA(table) ? 0 : 1;
}
