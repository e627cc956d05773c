"""A cluster of real `tetrarch` processes on loopback, for the scripts beside this folder.

Owns the processes it starts and a temporary directory; both are gone when the `with` block ends.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
TETRARCH = TARGET / "release" / "tetrarch"
BENCH = TARGET / "release" / "tetrarch-bench"


def free_ports(count):
    """`count` consecutive loopback ports that nobody listens on."""
    for base in range(20000 + os.getpid() % 5000, 60000, count + 1):
        try:
            for port in range(base, base + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
    raise RuntimeError("no free ports")


class Cluster:
    """n replica processes, `cluster[i]` is the i-th."""

    def __init__(self, replicas=4, service="kv", model="byzantine", clients=4, options=()):
        self.n = replicas
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="tetrarch-ci-"))
        self.path = self.dir / "cluster"
        self.base_port = free_ports(2 * replicas + 2)
        self.replicas = [None] * replicas
        self.others = []
        arguments = [
            TETRARCH, "init", self.path, "--replicas", str(replicas), "--model", model,
            "--clients", str(clients), "--base-port", str(self.base_port), "--service", service,
            *options,
        ]
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)

    def __enter__(self):
        for index in range(self.n):
            self.start(index)
        self.wait_until_ordering()
        return self

    def __exit__(self, kind, *_):
        for process in [*self.others, *self.replicas]:
            if process and process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in [*self.others, *self.replicas]:
            if process:
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
        if kind is None:
            shutil.rmtree(self.dir, ignore_errors=True)
        else:
            for log in sorted(self.dir.glob("*.log")):
                print(f"--- {log.name} (last lines)")
                print("\n".join(log.read_text(errors="replace").splitlines()[-15:]))

    def limit(self, name, value):
        """Sets one of `[limits]` in every replica's file; before they start."""
        for path in self.path.glob("replica-*.toml"):
            text, count = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value}", path.read_text())
            assert count == 1, f"{path}: no limit {name}"
            path.write_text(text)

    def start(self, index):
        log = open(self.dir / f"replica-{index}.log", "ab")
        command = [TETRARCH, "replica", self.path, "--id", str(index)]
        self.replicas[index] = subprocess.Popen(command, stdout=log, stderr=log)

    def log(self, index):
        return (self.dir / f"replica-{index}.log").read_text(errors="replace")

    def kill(self, index):
        self.replicas[index].kill()
        self.replicas[index].wait()

    def spawn(self, name, *arguments):
        log = open(self.dir / f"{name}.log", "ab")
        process = subprocess.Popen([str(a) for a in arguments], stdout=log, stderr=log)
        self.others.append(process)
        return process

    def status(self):
        """`tetrarch status --json`: one entry a replica, None for one that does not answer."""
        command = [TETRARCH, "status", self.path, "--json"]
        output = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
        return json.loads(output)["replicas"]

    def regency(self):
        return max(entry["regency"] for entry in self.status() if entry.get("reachable"))

    def wait_until_ordering(self, limit=20):
        """Until each replica answers and sees a certificate of others."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            for index, process in enumerate(self.replicas):
                if process.poll() is not None:
                    raise RuntimeError(f"replica {index} ended: {self.log(index)[-800:]}")
            entries = self.status()
            if all(e.get("reachable") and e["peers_up"] == self.n - 1 for e in entries):
                return
            time.sleep(0.2)
        raise RuntimeError(f"no cluster after {limit} s: {self.status()}")

    def gateway(self, client=0, options=()):
        port = self.base_port + 2 * self.n
        self.spawn("gateway", TETRARCH, "gateway", "redis", self.path, "--client", client,
                   "--listen", f"127.0.0.1:{port}", *options)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", port), 1) as probe:
                    probe.sendall(b"*1\r\n$4\r\nPING\r\n")
                    if probe.recv(16).startswith(b"+PONG"):
                        return port
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("the gateway does not answer")

    def load(self, *options, seconds=5):
        """Runs the load generator against the cluster and returns its JSON result."""
        command = [BENCH, "load", self.path, "--duration", str(seconds), "--json", *options]
        output = subprocess.run([str(c) for c in command], capture_output=True, text=True,
                                timeout=seconds + 120)
        if output.returncode != 0:
            raise RuntimeError(f"the load failed: {output.stderr[-800:]}")
        return json.loads(output.stdout.strip().splitlines()[-1])


def memory_kib(pid):
    """Resident set of a process, KiB."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text).group(1))


class Checks:
    """Named checks; `finish` prints the summary line and says whether all passed."""

    def __init__(self):
        self.passed = self.failed = 0

    def __call__(self, condition, text):
        print(f"  {'ok  ' if condition else 'FAIL'} {text}", flush=True)
        if condition:
            self.passed += 1
        else:
            self.failed += 1

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed else 0
