# The throttle of guests that are processes, on version 2 of cgroups. The machine's first process has
# mounted it; its topmost group has to pass the controller on.
#   cgroup_throttle.sh BASE_TEST
set -eu
echo +cpu >/sys/fs/cgroup/cgroup.subtree_control
# What only version 1 refuses is left out.
exec "$1" --gtest_filter='Version/CgroupThrottling.*/v2:-*ALimitThatIsRefused*'
