"""Recognise errors that mean a lack of memory."""

NO_MEMORY = (
    *("out of memory", "failed to map segment", "annot allocate memory", "can't allocate memory", "not enough memory"),
    *("can't start new thread", "bad_alloc", "error return without exception set"),
)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the error, of Python, torch, Ray, a loading library or a starting thread, means that memory has run out."""
    is_named_so = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's and Ray's
    return is_named_so or any(sign in str(error) for sign in NO_MEMORY)
