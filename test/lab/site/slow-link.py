#!/usr/bin/env python3
"""A cable with delay, jitter and loss: copies frames between two TAP devices that it makes.

usage: slow-link.py NEAR FAR

Kernels without `tc netem` have nothing that delays; this needs /dev/net/tun and Python's own library only. Prints `ready`
once both devices are there. Each line of standard input is JSON with the new qualities of the cable, each direction
alike: {"delayMs": 20, "jitterMs": 5, "lossPercent": 2}. Ends at the end of its input; its devices go with it.
"""
import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
# The longest Ethernet frame that leaves a TAP: 1500 bytes, header and VLAN tag; the kernel has cut larger ones up.
FRAME_BYTES = 2048
# Frames taken from one device before the other one gets its turn.
BATCH = 64
# What is on its way at most, each direction: 1 Gbit/s for half a second. More is dropped, as every real buffer does.
QUEUE_BYTES = 64 << 20


def open_tap(name):
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


class Direction:
    """Frames on their way from one device to the other, ordered by the time they arrive."""

    def __init__(self, source, sink):
        self.source, self.sink = source, sink
        self.frames, self.bytes, self.count, self.last = [], 0, 0, 0.0

    def take(self, now, cable):
        for _ in range(BATCH):
            try:
                frame = os.read(self.source, FRAME_BYTES)
            except BlockingIOError:
                return
            lost = random.random() * 100 < cable["lossPercent"]
            if lost or self.bytes + len(frame) > QUEUE_BYTES:
                continue
            jitter = random.uniform(-1, 1) * cable["jitterMs"]
            # A cable does not overtake: jitter that reorders would be a fault of the lab, not of the link.
            self.last = max(self.last, now + (cable["delayMs"] + jitter) / 1000)
            self.count += 1
            self.bytes += len(frame)
            heapq.heappush(self.frames, (self.last, self.count, frame))

    def give(self, now):
        while self.frames and self.frames[0][0] <= now:
            frame = heapq.heappop(self.frames)[2]
            self.bytes -= len(frame)
            try:
                os.write(self.sink, frame)
            except OSError:
                pass  # the device is down, or its queue full: a lost frame


def main(near, far):
    taps = [open_tap(near), open_tap(far)]
    directions = [Direction(taps[0], taps[1]), Direction(taps[1], taps[0])]
    cable = {"delayMs": 0, "jitterMs": 0, "lossPercent": 0}
    orders, rest = sys.stdin.fileno(), b""
    poll = select.epoll()
    for fd in (*taps, orders):
        poll.register(fd, select.EPOLLIN)
    print("ready", flush=True)
    while True:
        next_due = min((d.frames[0][0] for d in directions if d.frames), default=None)
        wait = None if next_due is None else max(0.0, next_due - time.monotonic())
        for fd, _ in poll.poll(wait):
            if fd == orders:
                text = os.read(orders, 65536)
                if not text:
                    return
                *lines, rest = (rest + text).split(b"\n")
                for line in lines:
                    cable.update(json.loads(line))
                    print("set", flush=True)
            else:
                directions[taps.index(fd)].take(time.monotonic(), cable)
        now = time.monotonic()
        for direction in directions:
            direction.give(now)


if __name__ == "__main__":
    main(*sys.argv[1:])
