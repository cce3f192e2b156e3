//! Whether a thread may be inside a plain send or receive on one socket, as /proc/PID/task/TID/syscall says.

use nix::libc;

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// It runs, or sleeps where the kernel names no call (a page fault, a worker of io_uring): anywhere.
    Anything,
    /// It sleeps in a call that moves bytes by these descriptors.
    Moving([Option<u64>; 2]),
    /// It sleeps in another call: that one touches no bytes of a socket.
    Other,
}

/// Calls that send or receive on the descriptor that is their first argument.
const MOVING: [libc::c_long; 14] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendmmsg,
];

/// The bit that marks the calls of the x32 ABI (`__X32_SYSCALL_BIT`).
const X32: libc::c_long = 0x4000_0000;

impl Doing {
    /// From the text of `syscall`: `running`, `-1 SP PC`, or the number and six arguments. What is unreadable is anything.
    pub(super) fn of(text: &str) -> Self {
        let mut words = text.split_whitespace();
        let call = words.next().and_then(|word| word.parse::<libc::c_long>().ok());
        let Some(call) = call.filter(|call| (0..X32).contains(call)) else { return Self::Anything };
        // A descriptor is an int: what is above is not looked at by the kernel.
        let mut argument = || {
            let hex = words.next()?.strip_prefix("0x")?;
            Some(u64::from_str_radix(hex, 16).ok()? & u64::from(u32::MAX))
        };
        let [first, second, third] = [argument(), argument(), argument()];
        match call {
            call if MOVING.contains(&call) => {
                first.map_or(Self::Anything, |fd| Self::Moving([Some(fd), None]))
            }
            libc::SYS_sendfile if first.is_some() => Self::Moving([first, second]),
            libc::SYS_splice if first.is_some() => Self::Moving([first, third]),
            libc::SYS_sendfile | libc::SYS_splice => Self::Anything,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: libc::c_long, arguments: &str) -> Doing {
        Doing::of(&format!("{number} {arguments} 0x7ffc 0x7f00\n"))
    }

    #[test]
    fn what_moves_bytes_by_a_descriptor_is_told_from_what_does_not() {
        for number in MOVING {
            assert_eq!(
                call(number, "0x5 0x7ff0 0x40 0x0 0x0 0x0"),
                Doing::Moving([Some(5), None]),
                "{number}"
            );
        }
        assert_eq!(call(libc::SYS_sendfile, "0x5 0x3 0x0 0x9 0x0 0x0"), Doing::Moving([Some(5), Some(3)]));
        assert_eq!(call(libc::SYS_splice, "0x3 0x0 0x5 0x0 0x9 0x0"), Doing::Moving([Some(3), Some(5)]));
        for number in [libc::SYS_futex, libc::SYS_epoll_pwait, libc::SYS_ppoll, libc::SYS_restart_syscall] {
            assert_eq!(call(number, "0x5 0x0 0x0 0x0 0x0 0x0"), Doing::Other, "{number}");
        }
    }

    #[test]
    fn only_the_low_half_of_an_argument_is_a_descriptor() {
        let found = call(libc::SYS_recvfrom, "0xffffffff00000007 0x0 0x0 0x0 0x0 0x0");
        assert_eq!(found, Doing::Moving([Some(7), None]));
    }

    #[test]
    fn whatever_is_not_known_may_be_anything() {
        let x32 = format!("{} 0x5 0x0 0x0 0x0 0x0 0x0 0x7ffc 0x7f00", X32 | libc::SYS_futex);
        for text in ["running\n", "-1 0x7ffc 0x7f00\n", "", "0", "45 five", "splice", &x32] {
            assert_eq!(Doing::of(text), Doing::Anything, "{text}");
        }
        assert_eq!(Doing::of(&format!("{}", libc::SYS_splice)), Doing::Anything);
    }
}
