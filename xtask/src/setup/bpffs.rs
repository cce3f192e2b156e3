//! The BPF file system, where the daemon pins its programs, links and maps.

use anyhow::{Context, Result};

use crate::run::Cmd;

const BPFFS: &str = "/sys/fs/bpf";

/// Mounts bpffs at its usual place unless it is there already.
pub fn mount_if_missing() -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/mounts").context("/proc/mounts cannot be read")?;
    if is_mounted(&mounts) {
        println!("bpffs is mounted at {BPFFS}");
        return Ok(());
    }
    println!("mounting bpffs at {BPFFS}");
    Cmd::new("mount")
        .args(["-t", "bpf", "bpf", BPFFS])
        .run()
        .context("the daemon pins its eBPF programs in bpffs: a kernel with CONFIG_BPF_SYSCALL is needed")
}

fn is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bpf_mount_at_the_usual_place_counts() {
        assert!(is_mounted("proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,relatime 0 0\n"));
        assert!(!is_mounted("tmpfs /sys/fs/bpf tmpfs rw 0 0\nbpf /mnt/bpf bpf rw 0 0\n"));
        assert!(!is_mounted(""));
    }
}
