# What the Linux guest of linux_copies.sh does: tells what it is, again whenever it is asked.
line() { read -r words </dev/console; }
forks() { dmesg | grep -c "reseeded due to virtual machine fork"; }
card() { cat /sys/class/net/eth0/address; }
# A driver reads its card's address when it is bound to it.
bind_again() {
  for device in /sys/bus/virtio/drivers/virtio_net/virtio*; do device=${device##*/}; done
  echo $device >/sys/bus/virtio/drivers/virtio_net/unbind
  echo $device >/sys/bus/virtio/drivers/virtio_net/bind
}

[ -e /sys/bus/platform/drivers/vmgenid/QEMUVGID:00 ] || echo "guest: fault no driver has the generation id"
grep -q "ACPI:Ged" /proc/interrupts || echo "guest: fault no driver hears of events"
echo "guest: came up, forks $(forks), card $(card)"
while line; do
  case $words in
    look*) echo "guest: $words: forks $(forks), card $(card)" ;;
    bind*) bind_again; echo "guest: $words: forks $(forks), card $(card)" ;;
    off) poweroff -f ;;
  esac
done
