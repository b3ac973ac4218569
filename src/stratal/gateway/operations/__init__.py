"""The operations door: ``/healthz`` and ``/readyz``, open to anybody, saying nothing but yes or no."""
