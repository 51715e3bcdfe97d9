#!/bin/busybox sh
# First process of the lab's machine: runs /job. Its output goes to the second serial port and its
# exit code to the third, each line of which begins with `lab:`; the first is the kernel's.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
# /run and /tmp are memory already, and may hold what was taken along.
mount -t tmpfs -o mode=1777 shm /dev/shm
chmod 1777 /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
# As they are, without carriage returns.
for port in 1 2; do stty -F /dev/ttyS$port raw -echo; done
exec 3>/dev/ttyS2
for module in /modules/*.ko; do
  insmod "$module" || echo "lab: fault $module does not load" >&3
done
rm -r /modules
ip link set lo up
ulimit -c 0
read -r up _ </proc/uptime
echo "lab: up $up" >&3
(cd /root && exec sh /job) </dev/null >/dev/ttyS1 2>&1 3>&-
echo "lab: exit $?" >&3
# No file has to be written back, so nothing is waited for.
poweroff -f
