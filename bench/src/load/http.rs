//! Just enough of an HTTP/1.1 client: one GET at a time on one connection, the answer read to its end and thrown away.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Header fields of an answer.
const MAX_FIELDS: usize = 32;
/// Bytes of one read.
pub const READ: usize = 64 * 1024;

/// One connection.
pub struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    room: Vec<u8>,
}

/// What is known after some bytes of an answer.
pub enum Head {
    /// Its head is not all there.
    Incomplete,
    /// Length of the head and of the body.
    Complete(usize, usize),
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// The socket's.
    pub async fn connect(to: SocketAddr, path: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, request: request(to, path), room: Vec::new() })
    }

    /// One request and its answer; the number of bytes in its body.
    ///
    /// # Errors
    /// The socket's, and an answer that is not 200 with a length.
    pub async fn ask(&mut self) -> io::Result<usize> {
        let Self { stream, request, room } = self;
        stream.write_all(request).await?;
        room.resize(READ, 0);
        let mut filled = 0;
        let (head, body) = loop {
            let read = some(stream.read(room.get_mut(filled..).unwrap_or_default()).await?)?;
            filled += read;
            if let Head::Complete(head, body) = parse(room.get(..filled).unwrap_or_default())? {
                break (head, body);
            }
        };
        let mut left = body
            .checked_sub(filled - head)
            .ok_or_else(|| io::Error::other("more came than was asked for"))?;
        while left > 0 {
            let read = some(stream.read(room).await?)?;
            left = left.saturating_sub(read);
        }
        Ok(body)
    }
}

/// One GET.
#[must_use]
pub fn request(to: SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {to}\r\n\r\n").into_bytes()
}

/// A read of no byte is the end, which is too early.
///
/// # Errors
/// Then.
pub fn some(read: usize) -> io::Result<usize> {
    if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
}

/// Reads the head of an answer.
///
/// # Errors
/// For anything but 200 with a length.
pub fn parse(bytes: &[u8]) -> io::Result<Head> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head) = answer.parse(bytes).map_err(io::Error::other)? else {
        return Ok(Head::Incomplete);
    };
    if answer.code != Some(200) {
        return Err(io::Error::other(format!("the server answers {:?}", answer.code)));
    }
    let length = answer.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok());
    length
        .map(|body| Head::Complete(head, body))
        .ok_or_else(|| io::Error::other("an answer without Content-Length"))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn answered(pieces: &'static [&'static str]) -> io::Result<usize> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let to = listener.local_addr()?;
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            assert!(request.starts_with(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1:"));
            for piece in pieces {
                stream.write_all(piece.as_bytes()).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        });
        let answer = Client::connect(to, "/x").await?.ask().await;
        server.await.unwrap();
        answer
    }

    #[tokio::test]
    async fn an_answer_is_read_to_its_end_however_it_is_cut() {
        assert_eq!(answered(&["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"]).await.unwrap(), 5);
        assert_eq!(
            answered(&["HTTP/1.1 200 OK\r\ncontent-le", "ngth: 5\r\n\r", "\nhe", "llo"]).await.unwrap(),
            5
        );
        assert_eq!(answered(&["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_no_good_answer_is_an_error() {
        for (pieces, why) in [
            (&["HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"][..], "404"),
            (&["HTTP/1.1 200 OK\r\n\r\n"], "without Content-Length"),
            (&["HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\ntwo"], "more came"),
            (&["SSH-2.0-OpenSSH\r\n"], "invalid"),
            (&["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"], "unexpected end of file"),
            (&["HTTP/1.1 200"], "unexpected end of file"),
        ] {
            let error = answered(pieces).await.unwrap_err().to_string();
            assert!(error.contains(why), "{pieces:?}: {error}");
        }
    }
}
