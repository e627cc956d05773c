"""redis-cli, redis-benchmark and redis-py against the gateway; one replica dies by SIGKILL.

What must hold: no acknowledged write is lost, no client sees an error beyond a retry, and the killed
replica's restart does not disturb the others.
"""

import subprocess
import sys
import threading
import time

import redis

from lib.cluster import Checks, Cluster

COMMANDS = "set,get,incr,lpush,sadd,hset"


def writer(port, index, acknowledged, errors, stop):
    """Writes numbered keys until told to stop; remembers what was acknowledged."""
    client = redis.Redis(port=port, socket_timeout=30)
    number = 0
    while not stop.is_set():
        key = f"writer:{index}:{number}"
        try:
            if client.set(key, number) and client.incr(f"count:{index}"):
                acknowledged.append((key, number))
                number += 1
        except redis.RedisError as error:
            errors.append(repr(error))
            time.sleep(0.1)


def benchmark(port):
    command = ["redis-benchmark", "-p", str(port), "-t", COMMANDS, "-P", "16", "-n", "100000",
               "-c", "20", "-q"]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


def main():
    check = Checks()
    with Cluster() as cluster:
        port = cluster.gateway()
        cli = subprocess.run(["redis-cli", "-p", str(port), "SET", "greeting", "hello"],
                             capture_output=True, text=True, timeout=30)
        check(cli.stdout.strip() == "OK", f"redis-cli SET answers OK ({cli.stdout.strip()})")
        cli = subprocess.run(["redis-cli", "-p", str(port), "GET", "greeting"],
                             capture_output=True, text=True, timeout=30)
        check(cli.stdout.strip() == "hello", "redis-cli GET gives it back")

        stop = threading.Event()
        acknowledged = [[] for _ in range(4)]
        errors = [[] for _ in range(4)]
        threads = [
            threading.Thread(target=writer, args=(port, i, acknowledged[i], errors[i], stop))
            for i in range(4)
        ]
        for thread in threads:
            thread.start()
        killer = threading.Timer(2.0, cluster.kill, args=(0,))
        killer.start()
        result = benchmark(port)
        killer.join()
        print("\n".join("    " + line for line in result.stdout.replace("\r", "\n").splitlines()
                        if "requests per second" in line))
        check(result.returncode == 0 and "rror" not in result.stdout + result.stderr,
              f"redis-benchmark -t {COMMANDS} -P 16 ends without an error, leader killed")
        before = sum(map(len, acknowledged))
        cluster.start(0)
        end = time.monotonic() + 30
        while sum(map(len, acknowledged)) <= before + 100 and time.monotonic() < end:
            time.sleep(0.2)
        check(sum(map(len, acknowledged)) > before + 100, "writes go on after the restart")
        stop.set()
        for thread in threads:
            thread.join()
        total = sum(map(len, acknowledged))
        faults = sum(map(len, errors))
        check(total > 100, f"{total} writes were acknowledged by redis-py")
        check(faults == 0, f"{faults} client errors: {sum(errors, [])[:3]}")
        client = redis.Redis(port=port, socket_timeout=30)
        lost = [key for i in range(4) for key, number in acknowledged[i]
                if client.get(key) != str(number).encode()]
        check(not lost, f"no acknowledged write is lost ({len(lost)}: {lost[:3]})")
        counts = [int(client.get(f"count:{i}")) for i in range(4)]
        check(counts == [len(a) for a in acknowledged],
              f"each increment was executed once: {counts}")
        check(cluster.replicas[0].poll() is None, "the restarted replica runs")
        says = any(word in cluster.log(0) for word in ("cannot catch up", "caught up"))
        check(says, "the restarted replica says whether it can catch up")
    return check.finish()


if __name__ == "__main__":
    sys.exit(main())
