"""Which parts of a job a process writes, where several share the work: a lock for each part, gone with its process."""

from collections.abc import Iterator

from filelock import FileLock, Timeout

from latentsync.inference.job_folder import JobFolder


class Claims:
    """Claims the parts of a job that are missing and that no other process has claimed; a context manager.

    A part that its process did not finish, for whatever reason, is free again once that process has ended.
    """

    def __init__(self, folder: JobFolder, count: int):
        self.folder, self.count = folder, count
        self.held: dict[int, FileLock] = {}

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, *error: object) -> None:
        for index in list(self.held):
            self.held.pop(index).release()

    def free(self) -> Iterator[int]:
        """Parts to write, each claimed when it is asked for."""
        for index in range(self.count):
            self._release_written()
            if self._claim(index):
                yield index

    def _claim(self, index: int) -> bool:
        if index in self.held or self.folder.part(index).is_file():
            return False
        lock = FileLock(self.folder.part_lock(index), timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            return False
        if self.folder.part(index).is_file():  # written while the lock was waited for
            lock.release()
            return False
        self.held[index] = lock
        return True

    def _release_written(self) -> None:
        for index in [index for index in self.held if self.folder.part(index).is_file()]:
            self.held.pop(index).release()
