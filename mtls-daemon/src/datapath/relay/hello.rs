//! The first bytes of an inbound connection: TLS or not, and one of ours or not.

use std::io;

use rustls::server::Acceptor;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::handshake::offers_mtlsd;

/// Content type `handshake` (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;
/// How much of a ClientHello is waited for; one with a post-quantum key share has under 2 KiB.
const MAX_HELLO: usize = 32 * 1024;

/// What a connection begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hello {
    /// A ClientHello, or at least something that claims to be TLS.
    Tls {
        /// It offers ALPN `mtlsd/1`.
        mtlsd: bool,
    },
    /// Anything else.
    NotTls,
}

/// Reads until it is clear what the connection begins with. All that was read is in `bytes`, also when
/// the caller stops waiting.
///
/// # Errors
/// `UnexpectedEof` when the peer closes before that.
pub async fn read_hello(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<Hello> {
    loop {
        if let Some(hello) = look(bytes) {
            return Ok(hello);
        }
        bytes.reserve(2048);
        if stream.read_buf(bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// `None`: more bytes are needed.
fn look(bytes: &[u8]) -> Option<Hello> {
    match bytes {
        [] => return None,
        [HANDSHAKE, ..] => {}
        _ => return Some(Hello::NotTls),
    }
    if bytes.len() > MAX_HELLO {
        return Some(Hello::Tls { mtlsd: false });
    }
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    match acceptor.accept() {
        Ok(None) => None,
        Ok(Some(accepted)) => {
            let hello = accepted.client_hello();
            Some(Hello::Tls { mtlsd: hello.alpn().is_some_and(offers_mtlsd) })
        }
        // The handshake proper says what is wrong with it, and sends the alert.
        Err(_) => Some(Hello::Tls { mtlsd: false }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_tls_is_seen_at_the_first_byte() {
        assert_eq!(look(b""), None);
        assert_eq!(look(b"G"), Some(Hello::NotTls));
        assert_eq!(look(&[0x15, 3, 1]), Some(Hello::NotTls));
    }

    #[test]
    fn half_a_hello_needs_more_and_garbage_after_the_first_byte_is_left_to_the_handshake() {
        assert_eq!(look(&[0x16]), None);
        assert_eq!(look(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc]), None);
        assert_eq!(look(&[0x16; 64]), Some(Hello::Tls { mtlsd: false }));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            look(&bytes);
            let mut tls = vec![0x16, 3, 1];
            tls.extend(bytes);
            look(&tls);
        }
    }
}
