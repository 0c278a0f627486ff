# Runs containerd where all that has a fixed place is a node's own. Arguments: step, folder of the node, its name among cgroups,
# folder of containerd. Each step is one more namespace; the process that began waits in the namespaces of the second step, in
# which the kubelet is then put.
set -e
step=$1 directory=$2 cgroup=$3 programs=$4
cgroups=/sys/fs/cgroup

# In a mount namespace: mounts are private here.
own_folders() {
    mkdir -p /var/lib/kubelet /run/containerd /var/log/containers
    mount --bind "$directory/kubelet" /var/lib/kubelet
    for empty in /run/containerd /var/log/containers; do mount -t tmpfs -o mode=755 packhorse-lab "$empty"; done
}

# A cgroup of the node's own takes the place of the root, in every hierarchy (of v2 there is one).
own_cgroups() {
    if [ -e "$cgroups/cgroup.controllers" ]; then hierarchies=$cgroups; else hierarchies=$(echo "$cgroups"/*); fi
    for hierarchy in $hierarchies; do
        if [ -L "$hierarchy" ] || [ ! -e "$hierarchy/cgroup.procs" ]; then continue; fi
        folder=$hierarchy
        for part in packhorse-lab "$cgroup"; do
            # v2: what the root may not hand on is missing below.
            for controller in $(cat "$folder/cgroup.controllers" 2>/dev/null); do
                echo "+$controller" 2>/dev/null >"$folder/cgroup.subtree_control" || true
            done
            mkdir -p "$folder/$part"
            # v1: a new cpuset is empty, and no process may enter it.
            for file in cpuset.cpus cpuset.mems; do
                if [ -e "$hierarchy/$file" ]; then cat "$hierarchy/$file" >"$folder/$part/$file"; fi
            done
            folder=$folder/$part
        done
        echo $$ >"$folder/cgroup.procs"
        mount --bind "$folder" "$hierarchy"
    done
}

case "$step" in
first)
    own_folders
    own_cgroups
    # What the kubelet mounts for pods has to reach containerd.
    mount --make-rshared /
    exec unshare --cgroup sh "$0" second "$directory" "$cgroup" "$programs"
    ;;
second)
    # v2: a cgroup with processes hands no controllers on.
    if [ -e "$cgroups/cgroup.controllers" ]; then
        mkdir -p "$cgroups/containerd"
        echo $$ >"$cgroups/containerd/cgroup.procs"
    fi
    # The kubelet needs the machine's /proc and containerd that of its PID namespace: one more mount namespace.
    exec unshare --pid --fork --kill-child=KILL \
        unshare --mount-proc --propagation slave sh "$0" third "$directory" "$cgroup" "$programs"
    ;;
third)
    # This is the first process of the PID namespace. It reaps what containerd's shims leave.
    PATH="$programs:$PATH"
    containerd --config "$directory/containerd.toml" &
    wait $!
    ;;
esac
