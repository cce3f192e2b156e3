//! The kernel's TLS on an application's socket: first TCP_ULP, which changes nothing yet, later both keys.

use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::datapath::ktls::{self, RecordKeys, TlsSocket};

/// What was to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `TCP_ULP` "tls".
    Ulp,
    /// `TLS_RX`.
    Receive,
    /// `TLS_TX`.
    Send,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ulp => "TCP_ULP",
            Self::Receive => "TLS_RX",
            Self::Send => "TLS_TX",
        })
    }
}

/// Why a socket has not become a TLS socket. What was set before it failed stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArmError {
    /// The module is not there, or may not be loaded.
    #[error("the kernel has no TLS (TCP_ULP gives ENOENT): load the module `tls`, or use relay")]
    NoKernelTls,
    /// A side has sent its FIN, or the connection is over.
    #[error("the connection is not established: one side had ended it before it had TCP_ULP")]
    NotEstablished,
    /// The application's own TLS library uses kTLS, or somebody else armed it.
    #[error("the socket has a TCP_ULP already: the application uses one itself")]
    HasUlp,
    /// It has a key already.
    #[error("{0}: the socket has a key already")]
    HasKey(Step),
    /// The kernel cannot do this cipher.
    #[error("{0}: the kernel does not take this cipher suite: allow another one, or use relay")]
    Cipher(Step),
    /// Something else.
    #[error("{step}: {errno}")]
    Failed {
        /// What was to be set.
        step: Step,
        /// What the kernel said.
        errno: Errno,
    },
}

impl ArmError {
    fn of(step: Step, errno: Errno) -> Self {
        match (step, errno) {
            (Step::Ulp, Errno::ENOENT) => Self::NoKernelTls,
            (Step::Ulp, Errno::EEXIST) => Self::HasUlp,
            (_, Errno::ENOTCONN) => Self::NotEstablished,
            (Step::Receive | Step::Send, Errno::EBUSY) => Self::HasKey(step),
            (Step::Receive | Step::Send, Errno::EINVAL | Errno::ENOENT) => Self::Cipher(step),
            (step, errno) => Self::Failed { step, errno },
        }
    }
}

/// Sets TCP_ULP, at the first moment at which the socket is established: a FIN that comes later no longer prevents the keys.
///
/// # Errors
/// See [`ArmError`].
pub fn enable(socket: &impl AsFd) -> Result<(), ArmError> {
    ktls::enable(socket).map_err(|errno| ArmError::of(Step::Ulp, errno))
}

/// Installs both keys in a socket that was [`enable`]d. Threads that are inside it go on as before: see [`super::kick`].
///
/// # Errors
/// See [`ArmError`].
pub fn install(socket: &impl AsFd, receive: &RecordKeys, send: &RecordKeys) -> Result<(), ArmError> {
    let socket = TlsSocket::new(socket);
    // In this order: what may be sent early is sent only when what comes back can be read.
    socket.install_rx(receive).map_err(|errno| ArmError::of(Step::Receive, errno))?;
    // The peer's kernel never pads, and no application reads what is no data. A kernel that does not know it copies instead.
    let _ = socket.decrypt_into_readers_memory();
    socket.install_tx(send).map_err(|errno| ArmError::of(Step::Send, errno))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Duration;

    use rustls::crypto::aws_lc_rs::default_provider;

    use super::*;
    use crate::datapath::ktls::Suite;
    use crate::datapath::tls::ContentType;
    use crate::sys::ktls as sys;
    use crate::testing::could_not_run;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    fn keys() -> RecordKeys {
        RecordKeys::random(Suite::Aes128Gcm, default_provider().secure_random).unwrap()
    }

    /// Whether the kernel has TLS; otherwise the test says so.
    fn ktls<T: Fn()>(test: T) -> bool {
        let there = enable(&pair().0) != Err(ArmError::NoKernelTls);
        if !there {
            could_not_run(test, "no kTLS in this kernel");
        }
        there
    }

    #[test]
    fn armed_sockets_speak_tls_to_each_other() {
        if !ktls(armed_sockets_speak_tls_to_each_other) {
            return;
        }
        let ((mut near, mut far), [there, back]) = (pair(), [keys(), keys()]);
        for end in [&near, &far] {
            enable(end).unwrap();
            assert_eq!(enable(end), Err(ArmError::HasUlp));
        }
        install(&near, &back, &there).unwrap();
        install(&far, &there, &back).unwrap();
        near.write_all(b"hello").unwrap();
        let mut room = [0; 5];
        far.read_exact(&mut room).unwrap();
        assert_eq!(&room, b"hello");
    }

    /// A pair that is armed, and reads at most a second.
    fn armed() -> (TcpStream, TcpStream) {
        let there = keys();
        armed_with(&there, &there)
    }

    /// The same; `sends`: the near end's key, `expects`: what the far end takes for it.
    fn armed_with(sends: &RecordKeys, expects: &RecordKeys) -> (TcpStream, TcpStream) {
        let ((near, far), back) = (pair(), keys());
        near.set_nodelay(true).unwrap();
        far.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        for (end, receive, send) in [(&near, &back, sends), (&far, expects, &back)] {
            enable(end).unwrap();
            install(end, receive, send).unwrap();
        }
        (near, far)
    }

    #[test]
    fn records_are_decrypted_into_the_readers_memory_and_never_behind_it() {
        if !ktls(records_are_decrypted_into_the_readers_memory_and_never_behind_it) {
            return;
        }
        let (mut near, mut far) = armed();
        assert!(sys::decrypts_into_readers_memory(&far).unwrap());
        // Room of every kind: smaller than a record, as large as one, for its type and its tag, for two.
        for room in [1, 63, 64, 65, 79, 80, 81, 127, 128, 129, 300] {
            for _ in 0..3 {
                near.write_all(&[7; 64]).unwrap();
            }
            let (mut memory, mut left) = ([0_u8; 512], 3 * 64);
            while left > 0 {
                memory.fill(0);
                let read = far.read(&mut memory[100..100 + room]).unwrap();
                assert!(read > 0 && read <= left, "{read} of {left} with {room}");
                left -= read;
                assert_eq!(memory[100..100 + read], vec![7; read]);
                assert!(memory[..100].iter().chain(&memory[100 + room..]).all(|&byte| byte == 0), "{room}");
            }
        }
    }

    #[test]
    fn a_record_that_is_no_data_is_an_error_and_stays_in_the_readers_memory() {
        if !ktls(a_record_that_is_no_data_is_an_error_and_stays_in_the_readers_memory) {
            return;
        }
        // Linux up to 6.12 writes such a record twice: with room for it once, for it twice, and for more.
        for (length, room) in [(64, 65), (64, 80), (64, 129), (64, 300), (2, 3)] {
            let (mut near, mut far) = armed();
            near.write_all(b"data").unwrap();
            let record = vec![9; length];
            TlsSocket::new(&near).send(ContentType::Alert, &record).unwrap();
            let mut memory = [0_u8; 512];
            assert_eq!(far.read(&mut memory[100..100 + room.max(4)]).unwrap(), 4, "the data only");
            assert_eq!(&memory[100..104], b"data");
            let error = far.read(&mut memory[100..100 + room]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
            assert!(
                memory[..100].iter().chain(&memory[100 + room.max(4)..]).all(|&byte| byte == 0),
                "{room}"
            );
        }
    }

    #[test]
    fn a_record_that_is_not_authentic_is_an_error_and_ends_what_can_be_read() {
        if !ktls(a_record_that_is_not_authentic_is_an_error_and_ends_what_can_be_read) {
            return;
        }
        let (mut near, mut far) = armed_with(&keys(), &keys());
        near.write_all(b"not with the key of the other end").unwrap();
        for _ in 0..2 {
            let error = far.read(&mut [0; 300]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(nix::libc::EBADMSG));
        }
    }

    #[test]
    fn after_a_fin_there_is_no_ulp() {
        if !ktls(after_a_fin_there_is_no_ulp) {
            return;
        }
        let (near, _far) = pair();
        near.shutdown(Shutdown::Write).unwrap();
        assert_eq!(enable(&near), Err(ArmError::NotEstablished));
    }

    #[test]
    fn what_the_kernel_says_is_told_apart() {
        let of = ArmError::of;
        assert_eq!(of(Step::Ulp, Errno::ENOENT), ArmError::NoKernelTls);
        assert_eq!(of(Step::Ulp, Errno::EEXIST), ArmError::HasUlp);
        assert_eq!(of(Step::Ulp, Errno::ENOTCONN), ArmError::NotEstablished);
        assert_eq!(of(Step::Receive, Errno::EBUSY), ArmError::HasKey(Step::Receive));
        assert_eq!(of(Step::Send, Errno::ENOENT), ArmError::Cipher(Step::Send));
        let failed = of(Step::Send, Errno::ENOMEM);
        assert_eq!(failed, ArmError::Failed { step: Step::Send, errno: Errno::ENOMEM });
        assert!(failed.to_string().starts_with("TLS_TX: ENOMEM"));
    }

    #[test]
    fn keys_without_the_ulp_and_what_is_no_socket_are_errors() {
        let (near, _far) = pair();
        assert!(matches!(
            install(&near, &keys(), &keys()),
            Err(ArmError::Failed { step: Step::Receive, .. })
        ));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(enable(&file), Err(ArmError::Failed { step: Step::Ulp, errno: Errno::ENOTSOCK }));
    }
}
