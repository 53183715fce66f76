"""msp-sdk: from a provision code to agents running, as composable clients.

What is not built yet is not exported yet.
"""

__all__: list[str] = []
