"""Ways out of a sandbox, one function each; run inside it, and outside as a control.

Stand-alone: standard library only, started as `python -I -S probes.py NAME [ARGUMENT]`. Prints one
JSON object: `outcome` is `ok` where the way was open, the name of the errno where it was refused,
or a word of the probe's own.
"""

import ctypes
import errno
import fcntl
import json
import os
import platform
import resource
import signal
import socket
import struct
import sys
import termios

X86 = platform.machine() == "x86_64"
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

# name: (x86-64, arm64)
NUMBERS = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clone": (56, 220),
    "clone3": (435, 435),
    "execveat": (322, 281),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "ptrace": (101, 117),
    "seccomp": (317, 277),
    "setns": (308, 268),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
NEWNS, NEWUSER, NEWNET = 0x20000, 0x10000000, 0x40000000


def syscall(name, *arguments):
    number = NUMBERS[name][0 if X86 else 1]
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def in_child(action):
    """Run in a forked child; the errno, or the signal's name, or ok."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            action()
        except OSError as error:
            code = error.errno
        os.write(writing, struct.pack("=i", code))
        os._exit(0)
    os.close(writing)
    answer = os.read(reading, 4)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    code = struct.unpack("=i", answer)[0] if answer else 0
    if code:
        raise OSError(code, "in child")
    return "ok"


def raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


def packet_socket():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()


def vsock():
    socket.socket(40, socket.SOCK_STREAM).close()


def alg_socket():
    socket.socket(38, socket.SOCK_SEQPACKET).close()


def mptcp_socket():
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).close()


def netlink_netfilter():
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12).close()


def netlink_route_open():
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()


def netlink_route_write():
    """Add an address to loopback."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        body = struct.pack("=BBBBI", 2, 32, 0, 0, 1) + struct.pack(
            "=HH4s", 8, 2, b"\x0a\x01\x02\x03"
        )
        sock.send(struct.pack("=IHHII", 16 + len(body), 20, 0x1 | 0x4 | 0x400, 1, 0) + body)
        code = -struct.unpack_from("=i", sock.recv(4096), 16)[0]
        if code:
            raise OSError(code, "netlink")


def mount_tmpfs():
    os.makedirs("/tmp/mnt", exist_ok=True)
    if libc.mount(b"none", b"/tmp/mnt", b"tmpfs", 0, None):
        raise OSError(ctypes.get_errno(), "mount")


def open_tree():
    os.close(syscall("open_tree", -100, b"/usr", 1))


def mount_setattr():
    syscall("mount_setattr", -100, b"/", 0, struct.pack("=4Q", 0, 1, 0, 0), 32)


def umount_mask():
    if libc.umount2(b"/proc/kcore" if len(sys.argv) < 3 else sys.argv[2].encode(), 2):
        raise OSError(ctypes.get_errno(), "umount2")


def pivot_root():
    syscall("pivot_root", b"/nowhere", b"/nowhere")


def ptrace_process_1():
    """Attach; outside, process 1 of the control namespaces is an ordinary process."""
    syscall("ptrace", 16, 1, 0, 0)
    os.waitpid(1, 0x40000000)
    syscall("ptrace", 17, 1, 0, 0)


def read_vm_of_process_1():
    buffer = ctypes.create_string_buffer(8)
    local = struct.pack("=QQ", ctypes.addressof(buffer), 8)
    with open("/proc/1/maps") as maps:
        address = int(maps.readline().split("-")[0], 16)
    syscall("process_vm_readv", 1, local, 1, struct.pack("=QQ", address, 8), 1, 0)


def vm_readv_denied():
    buffer = ctypes.create_string_buffer(8)
    pair = struct.pack("=QQ", ctypes.addressof(buffer), 8)
    syscall("process_vm_readv", os.getpid(), pair, 1, pair, 1, 0)


def read_proc_1(name):
    path = f"/proc/1/{name}"
    if name in ("fd", "fdinfo", "map_files", "task/1/fd"):
        os.listdir(path)
    elif name in ("root", "cwd", "exe") or name.startswith("ns/"):
        os.readlink(path)
    elif name == "mem":
        with open("/proc/1/maps") as maps:
            address = int(maps.readline().split("-")[0], 16)
        with open(path, "rb", buffering=0) as memory:
            memory.seek(address)
            memory.read(8)
    else:
        with open(path, "rb") as file:
            file.read(64)


def open_proc_1_mem():
    """The file alone, without the maps that tell where to read."""
    os.close(os.open("/proc/1/mem", os.O_RDONLY))


def through_proc_1_root():
    os.listdir("/proc/1/root/")


def keyctl():
    syscall("keyctl", 0, -3, 0, 0, 0)


def add_key():
    syscall("add_key", b"user", b"probe", b"x", 1, -3)


def bpf():
    """An invalid command: only a kernel that let us in would say so."""
    syscall("bpf", 9999, bytes(128), 128)


def io_uring():
    os.close(syscall("io_uring_setup", 1, bytes(120)))


def userfaultfd():
    os.close(syscall("userfaultfd", 1))


def perf_event():
    attributes = struct.pack("=IIQ", 1, 112, 1) + bytes(96)
    os.close(syscall("perf_event_open", attributes, 0, -1, -1, 0))


def memfd():
    os.close(syscall("memfd_create", b"x", 0))


def kcmp():
    syscall("kcmp", os.getpid(), os.getpid(), 0, 0, 0)


def kernel_log():
    syscall("syslog", 3, ctypes.create_string_buffer(16), 16)


def user_namespace():
    return in_child(lambda: syscall("unshare", NEWUSER))


def user_namespace_clone():
    pid = syscall("clone", NEWUSER | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def network_namespace():
    return in_child(lambda: syscall("unshare", NEWNET))


def clone3():
    """Zero size: EINVAL from a kernel that has the call."""
    syscall("clone3", 0, 0)


def set_namespace():
    with open("/proc/self/ns/uts") as namespace:
        syscall("setns", namespace.fileno(), 0)


def pidfd_of_process_1():
    os.close(syscall("pidfd_open", 1, 0))


def steal_descriptor():
    syscall("pidfd_getfd", -1, 0, 0)


def second_filter():
    program = struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000)
    code = ctypes.create_string_buffer(program, 8)
    libc.prctl(38, 1, 0, 0, 0)
    return in_child(
        lambda: syscall("seccomp", 1, 0, struct.pack("=HxxxxxxQ", 1, ctypes.addressof(code)))
    )


def second_filter_by_prctl():
    program = struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000)
    code = ctypes.create_string_buffer(program, 8)
    libc.prctl(38, 1, 0, 0, 0)

    def install():
        if libc.prctl(22, 2, struct.pack("=HxxxxxxQ", 1, ctypes.addressof(code)), 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")

    return in_child(install)


def hide_from_supervisor():
    libc.prctl(4, 0, 0, 0, 0)
    return "hidden" if libc.prctl(3, 0, 0, 0, 0) == 0 else "visible"


def execute_nameless_file():
    """execveat of a descriptor: a program without a path."""
    descriptor = os.open("/bin/true", os.O_RDONLY)
    pid = os.fork()
    if pid == 0:
        arguments = (ctypes.c_char_p * 2)(b"true", None)
        number = NUMBERS["execveat"][0 if X86 else 1]
        libc.syscall(ctypes.c_long(number), descriptor, b"", arguments, None, 0x1000)
        os._exit(ctypes.get_errno())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, "execveat")


def write_through_symlink(target):
    link = f"link-{os.getpid()}"
    os.symlink(target, link)
    try:
        with open(link, "a") as file:
            file.write("x")
    finally:
        os.unlink(link)


def _own_file(directory):
    path = f"{directory}/probe-{os.getpid()}"
    with open(path, "w") as file:
        file.write("x")
    return path


def rename_out(outside):
    """Move a file from a writable directory to its unlisted neighbour on the same mount."""
    source = _own_file(sys.argv[3])
    os.rename(source, f"{outside}/renamed-{os.getpid()}")


def link_out(outside):
    source = _own_file(sys.argv[3])
    os.link(source, f"{outside}/linked-{os.getpid()}")


def rename_directory_in(outside):
    """Pull an unlisted directory into a writable one, to write in it there."""
    os.rename(outside, f"{sys.argv[3]}/pulled")


def truncate(path):
    os.truncate(path, 0)


def create(path):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    os.unlink(path)


def make_directory(path):
    os.mkdir(path)
    os.rmdir(path)


def read(path):
    with open(path, "rb") as file:
        return "empty" if not file.read(1) else "ok"


def list_directory(path):
    return "empty" if not os.listdir(path) else "ok"


def exists(path):
    os.stat(path)


def signal_process(pid):
    os.kill(int(pid), 0)


def kill_process_1():
    os.kill(1, signal.SIGKILL)
    os.kill(1, signal.SIGINT)
    os.kill(1, signal.SIGTERM)
    os.kill(1, 0)


def connect_abstract(name):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(f"\0{name}")


def connect_unix(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(path)


def push_terminal_input():
    fcntl.ioctl(0, termios.TIOCSTI, b"x")


def push_terminal_input_high_bits():
    """The kernel compares 32 bits: set the others."""
    request = ctypes.c_ulong(termios.TIOCSTI | (1 << 40))
    if libc.ioctl(0, request, b"x"):
        raise OSError(ctypes.get_errno(), "ioctl")


def console_ioctl():
    fcntl.ioctl(0, 0x541C, b"\x02")


def open_by_handle():
    syscall("open_by_handle_at", -1, bytes(64), 0)


def personality():
    if libc.personality(0x0400000) < 0:
        raise OSError(ctypes.get_errno(), "personality")


def x32():
    """getpid with the bit of the x32 ABI."""

    def call():
        if libc.syscall(ctypes.c_long(0x40000000 | 39)) < 0:
            raise OSError(ctypes.get_errno(), "x32")

    return in_child(call)


def make_device():
    os.mknod("zero-probe", 0o666 | 0o020000, os.makedev(1, 5))
    os.unlink("zero-probe")


def chroot():
    return in_child(lambda: os.chroot("/"))


def load_module():
    syscall("init_module", 0, 0, b"")


def kexec():
    syscall("kexec_load", 0, 0, 0, 0xFFFF)


def become_root():
    return in_child(lambda: os.setresuid(0, 0, 0))


def change_groups():
    return in_child(lambda: os.setgroups([]))


def raise_capabilities():
    def raised():
        header = struct.pack("=Ii", 0x20080522, 0)
        syscall_capset = 126 if X86 else 91
        data = struct.pack("=6I", 1 << 21, 1 << 21, 0, 0, 0, 0)
        if libc.syscall(ctypes.c_long(syscall_capset), header, data):
            raise OSError(ctypes.get_errno(), "capset")

    return in_child(raised)


def raise_process_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    try:
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard + 1))
    except ValueError:
        raise OSError(errno.EPERM, "setrlimit") from None


def enable_core_files():
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
    except ValueError:
        raise OSError(errno.EPERM, "setrlimit") from None


def set_hostname():
    socket.sethostname("elsewhere")


def fork_bomb():
    """Fork until refused, at most 300 times; all children are ended."""
    pids = []
    try:
        for _ in range(300):
            pid = os.fork()
            if pid == 0:
                signal.pause()
            pids.append(pid)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)


def allocate(mebibytes):
    try:
        block = bytearray(int(mebibytes) << 20)
        block[::4096] = b"x" * len(block[::4096])
    except MemoryError:
        return "MemoryError"


def send_udp(address):
    host, port = address.rsplit("|", 1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", (host, int(port)))


def send_raw_icmp(address):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.sendto(b"\x08\x00\xf7\xff\x00\x00\x00\x00", (address, 0))


def ping_socket():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
        sock.sendto(b"\x08\x00\x00\x00\x00\x00\x00\x00", ("8.8.8.8", 0))


def connect_tcp(address):
    host, port = address.rsplit("|", 1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(3)
        sock.connect((host, int(port)))
        return {"outcome": "ok", "local": sock.getsockname()[:2]}


def own_server():
    """A server of the agent's on loopback is its own affair."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), 2).close()


def bind(address):
    host, port = address.rsplit("|", 1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = socket.SOCK_DGRAM if len(sys.argv) > 3 else socket.SOCK_STREAM
    with socket.socket(family, kind) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, int(port)))
        if kind == socket.SOCK_STREAM:
            sock.listen(1)


def transparent_socket():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, 19, 1)


def threads_and_forks():
    """What must still work under the filter."""
    import threading

    done = []
    thread = threading.Thread(target=lambda: done.append(1))
    thread.start()
    thread.join()
    return in_child(lambda: None) if done else "no thread"


def status():
    with open("/proc/self/status") as file:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    return {
        "outcome": "ok",
        "status": lines,
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "cwd": os.getcwd(),
        "umask": os.umask(0o22),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "ignored": int(lines["SigIgn"], 16),
        "blocked": int(lines["SigBlk"], 16),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
    }


def main():
    name, *arguments = sys.argv[1:]
    try:
        result = globals()[name](*arguments[:1])
    except OSError as error:
        result = errno.errorcode.get(error.errno, str(error))
    if not isinstance(result, dict):
        result = {"outcome": result or "ok"}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
