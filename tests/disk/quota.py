"""A folder with little room: a file system in memory that only one process and its children see.

Needs Linux, and either root or the permission to make user namespaces, which most distributions give.
"""

import ctypes
import os
from pathlib import Path

NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000
REMOUNT, PRIVATE, RECURSIVE = 0x20, 1 << 18, 1 << 14
KB = 1024


class Quota:
    """A file system of `kb` KiB at `folder`; call it in a forked process, for it ends with that process.

    Raises:
        OSError: this machine does not allow it.
    """

    def __init__(self, folder, kb, files=None):
        self.folder, self._libc = folder, ctypes.CDLL(None, use_errno=True)
        user, group = os.geteuid(), os.getegid()
        self._done(self._libc.unshare(NEW_MOUNTS | (NEW_USER if user else 0)), "unshare")
        if user:
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
                Path(f"/proc/self/{name}").write_text(text)
        self._mount("none", "/", None, PRIVATE | RECURSIVE)
        folder.mkdir(parents=True, exist_ok=True)
        self._mount("tmpfs", str(folder), "tmpfs", 0, _options(kb, files))

    def give(self, kb):
        """Makes it larger, and lifts the limit of the number of files."""
        self._mount("tmpfs", str(self.folder), "tmpfs", REMOUNT, _options(kb, 0))

    def used_kb(self):
        """Returns what its files take."""
        found = os.statvfs(self.folder)
        return (found.f_blocks - found.f_bfree) * found.f_frsize // KB

    def _mount(self, source, target, kind, flags, options=""):
        given = [None if text is None else text.encode() for text in (source, target, kind)]
        self._done(self._libc.mount(*given, flags, options.encode()), f"mount {target}")

    def _done(self, answer, what):
        if answer:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")


def _options(kb, files):
    return f"size={kb}k" + ("" if files is None else f",nr_inodes={files}")


def is_possible(folder):
    """Returns whether this machine lets a process make such a folder."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            Quota(folder, 64).give(128)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0
