"""Which system calls a guest may make: an allow-list, in groups of which each is a mechanism of its own.

An allow-list, because what the next kernel adds is then refused without anybody having heard of it; its answer,
"no such call", is one that libc and CPython know how to live with. A call that is known and refused politely gives
EPERM: honest code tries sockets or child processes and copes. One that honest reward code never makes kills, so
that it cannot be tried again and again, and shows as signal SIGSYS.

`FORGED` calls do nothing and report success, as a FAT file system does with modes: Landlock does not govern the
modes, owners and times of files, so that they could be changed outside of the scratch folder too where guest and
service are one user; yet `shutil.copy` and archives rely on them.

What CPython, numpy, sqlite3 and asyncio need was taken from their sources and from traces. Calls on sockets are
allowed where they only use one that exists: `fds` of a run may be sockets, and asyncio wakes itself by a pair.
"""

import errno

from services.reward.sandbox.seccomp import (
    ALLOW,
    KILL,
    OWN_PROCESS,
    Block,
    equals_any,
    error,
    no_flags,
    null_pointer,
)

EPERM = error(errno.EPERM)
ENOSYS = error(errno.ENOSYS)
ENOTSUP = error(errno.ENOTSUP)
FORGED = error(0)

CLONE_THREAD = 0x00010000
CLONE_NEW = 0x7E020000
"""Every flag of clone that makes a namespace."""
AF_UNIX = 1
STREAM, SEQPACKET, NONBLOCK, CLOEXEC = 1, 5, 0o4000, 0o2000000
PAIRS = [kind | extra for kind in (STREAM, SEQPACKET) for extra in (0, NONBLOCK, CLOEXEC, NONBLOCK | CLOEXEC)]
"""Kinds of socket that cannot be sent an address."""
FCNTL = [0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032]
"""Duplicates, flags, locks and the size of a pipe; not who is to get signals (8, 10, 15), leases and notices."""
IOCTL = [0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451]
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
PRCTL = [2, 3, 15, 16, 23, 39]
"""Reading the death signal and dumpable, the thread's name, reading capabilities and no_new_privs."""

O_TRUNC, O_ACCMODE = 0o1000, 0o3


def _all(names: str, block: Block) -> dict[str, Block]:
    return dict.fromkeys(names.split(), block)


def _no_truncating_readers(argument: int) -> Block:
    """open(O_RDONLY | O_TRUNC) empties a file that one may only read, as old Landlock sees it."""
    if_written = no_flags(argument, O_ACCMODE, then=EPERM, otherwise=ALLOW)
    return no_flags(argument, O_TRUNC, then=ALLOW, otherwise=if_written)


ALWAYS = _all(
    """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek
    creat close close_range dup dup2 dup3 pipe pipe2 fadvise64 copy_file_range sendfile
    stat fstat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat statfs fstatfs
    getdents getdents64 getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2
    link linkat symlink symlinkat ftruncate fsync fdatasync flock umask
    mmap mprotect munmap mremap brk madvise msync mincore membarrier
    poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd eventfd2
    timerfd_create timerfd_settime timerfd_gettime getitimer setitimer alarm pause
    nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack restart_syscall
    futex set_robust_list get_robust_list set_tid_address rseq sched_yield sched_getaffinity getcpu
    getpid gettid getppid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp getpgid getsid
    getpriority getrlimit setrlimit getrusage sysinfo uname getrandom wait4 waitid exit exit_group
    recvfrom getsockopt getsockname getpeername shutdown
    """,
    ALLOW,
)

GROUPS: dict[str, dict[str, Block]] = {
    "seccomp network": {
        **_all("socket connect bind listen accept accept4 setsockopt", EPERM),
        **_all("sendmsg recvmsg sendmmsg recvmmsg", EPERM),  # they also pass descriptors
        "sendto": null_pointer(4, then=ALLOW, otherwise=EPERM),
        "socketpair": equals_any(
            0, [AF_UNIX], then=equals_any(1, PAIRS, then=ALLOW, otherwise=EPERM), otherwise=EPERM
        ),
    },
    "seccomp processes": {
        **_all("fork vfork execve execveat setsid setpgid pidfd_open", EPERM),
        **_all(
            "setpriority ioprio_set sched_setaffinity sched_setparam sched_setscheduler sched_setattr", EPERM
        ),
        "clone": no_flags(
            0,
            CLONE_NEW | CLONE_THREAD,
            then=EPERM,
            otherwise=no_flags(0, CLONE_NEW, then=ALLOW, otherwise=EPERM),
        ),
        "clone3": ENOSYS,  # its flags are behind a pointer; libc then takes clone
        "prlimit64": equals_any(0, [0, OWN_PROCESS], then=ALLOW, otherwise=EPERM),
    },
    "seccomp signals": {
        **_all("rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal", EPERM),
        **_all("kill tkill tgkill", equals_any(0, [OWN_PROCESS], then=ALLOW, otherwise=EPERM)),
        "fcntl": equals_any(1, FCNTL, then=ALLOW, otherwise=EPERM),
    },
    "seccomp tracing": {
        **_all(
            "ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_getfd",
            KILL,
        ),
        "prctl": equals_any(0, PRCTL, then=ALLOW, otherwise=EPERM),
    },
    "seccomp metadata": {
        **_all("chmod fchmod fchmodat chown fchown lchown fchownat utime utimes utimensat futimesat", FORGED),
        "truncate": EPERM,  # before version 3, Landlock does not govern it
        "open": _no_truncating_readers(1),
        "openat": _no_truncating_readers(2),
        **_all("setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr", ENOTSUP),
        **_all("getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr", ENOTSUP),
    },
    "seccomp kernel surface": {
        **_all(
            "mount umount2 move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr pivot_root chroot",
            KILL,
        ),
        **_all(
            "unshare setns bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register",
            KILL,
        ),
        **_all("keyctl add_key request_key open_by_handle_at fanotify_init modify_ldt iopl ioperm", KILL),
        **_all(
            "init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff", KILL
        ),
        **_all(
            "sethostname setdomainname settimeofday clock_settime adjtimex clock_adjtime acct quotactl", KILL
        ),
        **_all("memfd_create memfd_secret personality syslog vhangup seccomp name_to_handle_at", EPERM),
        **_all(
            "mlock mlock2 mlockall munlock munlockall shmget shmat msgget semget mq_open mknod mknodat", EPERM
        ),
        **_all(
            "setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid capget capset",
            EPERM,
        ),
        "fallocate": equals_any(
            1, [0], then=ALLOW, otherwise=EPERM
        ),  # others take disk beyond a file's limit
        "ioctl": equals_any(1, IOCTL, then=ALLOW, otherwise=EPERM),
    },
}
"""What each mechanism refuses, and how; without it the calls are allowed. The last one also refuses all others."""


def verdicts(without: frozenset[str], threads: bool) -> tuple[dict[str, Block], Block]:
    """System call → what to do; and what to do with those that are not named."""
    found = dict(ALWAYS)
    for group, rules in GROUPS.items():
        found |= dict.fromkeys(rules, ALLOW) if group in without else rules
    if not threads and "thread limit" not in without and "seccomp processes" not in without:
        found["clone"] = EPERM
    return found, ALLOW if "seccomp kernel surface" in without else ENOSYS
