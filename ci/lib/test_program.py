"""Prints the path of the test program of a crate, from what `cargo test --no-run --message-format=json` says."""

import json
import sys

name = sys.argv[1]
for line in sys.stdin:
    message = json.loads(line)
    if message.get("reason") != "compiler-artifact" or not message["profile"]["test"]:
        continue
    if message["target"]["name"] == name and message.get("executable"):
        print(message["executable"])
        break
else:
    sys.exit(f"test_program: cargo has built no tests of {name}")
