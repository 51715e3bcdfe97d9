# What the Linux guest of linux_machine.sh does. The first disk keeps how often it has come up, so that it goes on after a
# restart: it restarts, then looks at its machine, moves, hears of it by the console, looks again, and at last panics or
# switches itself off, as it is told.
line() { dd if="$1" bs=512 skip="$2" count=1 2>/dev/null | head -n 1; }
put() { echo "$3" | dd of="$1" bs=512 seek="$2" conv=notrunc,fsync 2>/dev/null; }
heard() {
  read -r words </dev/console
  echo "guest: heard $words"
}

ups=$(line /dev/vda 0)
ups=$((${ups:-0} + 1))
put /dev/vda 0 $ups
if [ $ups = 1 ]; then
  echo "guest: restarts"
  reboot -f
fi
cards=$(ls /sys/class/net | grep -c eth)
echo "guest: came up $ups times, $(nproc) processors, disks $(cat /sys/block/vda/size) $(cat /sys/block/vdb/size), $cards cards"
put /dev/vdc 0 x 2>/dev/null && [ "$(line /dev/vdc 0)" = x ] && echo "guest: fault the disk to be read has been written"
echo "guest: read $(line /dev/vdc 1)"
put /dev/vdb 1 before
heard
[ "$(line /dev/vdb 1)" = before ] || echo "guest: fault the second disk has lost a line"
put /dev/vdb 2 after
for card in eth0 eth1; do
  ip link set $card up
  ip addr add "10.7.${card#eth}.2/24" dev $card
  ping -c 1 -w 60 "10.7.${card#eth}.1" >/dev/null && echo "guest: reaches its host by $card"
done
echo "guest: $(nproc) processors after the move"
heard
case $words in
  panic) echo c >/proc/sysrq-trigger ;;
  *) poweroff -f ;;
esac
