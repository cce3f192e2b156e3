//! QEMU's command line.

use std::path::Path;

use super::kernel::Kernel;
use crate::run::Cmd;

/// The program.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// How the guest's processors are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processor {
    /// The host's.
    Kvm,
    /// Translated, a thread for each processor.
    Tcg,
    /// Translated, one processor, and a clock of one nanosecond for each instruction.
    Lab,
}

impl Processor {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
            Self::Lab => "TCG with the deterministic clock",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            // Without fast strings: QEMU moves `rep movsb` byte by byte. A fifth level of page tables only costs.
            Self::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max,erms=off,fsrm=off,la57=off"],
            Self::Lab => &["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-cpu", "max"],
        }
    }
}

/// A guest to be started.
#[derive(Debug)]
pub struct Machine<'a> {
    /// Its kernel.
    pub kernel: &'a Kernel,
    /// How its processors are made.
    pub processor: Processor,
    /// How many.
    pub cpus: u32,
    /// MiB.
    pub memory: u32,
    /// A directory shared for writing.
    pub out: Option<&'a Path>,
    /// A file that is its disk.
    pub disk: Option<&'a Path>,
    /// Holds `initramfs`, and takes `console.log` and `control`.
    pub dir: &'a Path,
}

impl Machine<'_> {
    /// The command. The guest's two outputs are QEMU's own; the console and the control port are files.
    pub fn command(&self) -> Cmd {
        // What dies without a word takes QEMU with it: the kernel sends the signal.
        let cmd = Cmd::new("setpriv").args(["--pdeathsig", "KILL", "--", PROGRAM]);
        let cmd = cmd
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35"])
            .args(self.processor.arguments())
            .args(["-smp", &self.cpus.to_string(), "-m", &format!("{}M", self.memory)])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .args(["-initrd", "initramfs", "-append", KERNEL_ARGUMENTS])
            .args(["-chardev", "file,id=console,path=console.log", "-serial", "chardev:console"])
            .args(["-device", "virtio-serial-pci", "-device", "virtio-rng-pci"])
            .args(["-chardev", "file,id=out,path=/dev/stdout"])
            .args(["-chardev", "file,id=err,path=/dev/stderr"])
            .args(["-chardev", "file,id=control,path=control"]);
        let cmd = ["out", "err", "control"].iter().fold(cmd, |cmd, name| {
            cmd.args(["-device", &format!("virtserialport,chardev={name},name=mtlsd.{name}")])
        });
        let cmd = cmd.args(share("host", Path::new("/"), "readonly=on,multidevs=remap"));
        let cmd = match self.out {
            Some(out) => cmd.args(share("out", out, "multidevs=remap")),
            None => cmd,
        };
        let cmd = match self.disk {
            Some(disk) => cmd.args([
                "-drive".to_owned(),
                format!("if=none,id=disk,format=raw,cache=unsafe,file={}", escaped(disk)),
                "-device".to_owned(),
                "virtio-blk-pci,drive=disk".to_owned(),
            ]),
            None => cmd,
        };
        cmd.dir(self.dir)
    }
}

/// A panic or an oops ends the guest at once. The mitigations cost much under TCG and protect nobody here, and neither do
/// AppArmor and, where that is off, SELinux, which costs a few per cent of every packet without having a policy.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 panic=-1 oops=panic mitigations=off tsc=reliable random.trust_cpu=on audit=0 lsm=lockdown,yama,landlock,bpf";

/// A comma separates QEMU's options; two stand for one.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

fn share(tag: &str, path: &Path, options: &str) -> [String; 4] {
    let path = escaped(path);
    [
        "-fsdev".to_owned(),
        format!("local,id={tag},path={path},security_model=passthrough,{options}"),
        "-device".to_owned(),
        format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(processor: Processor, out: Option<&Path>) -> String {
        let kernel = Kernel { release: "6.1".into(), image: "/k/vmlinuz".into(), base: "/k".into() };
        let machine = Machine {
            kernel: &kernel,
            processor,
            cpus: 1,
            memory: 512,
            out,
            disk: out,
            dir: Path::new("/tmp"),
        };
        machine.command().line()
    }

    #[test]
    fn the_hosts_files_are_read_only_and_qemu_dies_with_its_parent() {
        let line = line(Processor::Tcg, None);
        assert!(line.starts_with("setpriv --pdeathsig KILL -- qemu-system-x86_64 "), "{line}");
        assert!(line.contains("path=/,security_model=passthrough,readonly=on"), "{line}");
        assert_eq!(line.matches("-fsdev").count(), 1, "{line}");
        assert!(line.contains("panic=-1") && line.contains("-no-reboot"), "{line}");
    }

    #[test]
    fn a_shared_directory_and_a_disk_may_have_a_comma() {
        let line = line(Processor::Kvm, Some(Path::new("/a,b")));
        assert!(line.contains("id=out,path=/a,,b,") && line.contains("file=/a,,b "), "{line}");
    }

    #[test]
    fn the_lab_counts_instructions() {
        let line = line(Processor::Lab, None);
        assert!(
            line.contains("-accel tcg,thread=single -icount shift=0,sleep=off -cpu max -smp 1 "),
            "{line}"
        );
    }
}
