//! A small HTTP client.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Asks for a path on a connection of its own. Returns the body, a text.
///
/// # Errors
/// If there is no answer, or one that is not 200, or not text.
pub fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    String::from_utf8(get_bytes(address, path)?).map_err(|error| io::Error::other(error.utf8_error()))
}

/// As [`get`], for any body.
///
/// # Errors
/// If there is no answer, or one that is not 200.
pub fn get_bytes(address: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(20))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_nodelay(true)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Err(io::Error::other(format!("no HTTP answer in {} bytes", answer.len())));
    };
    if !answer.starts_with(b"HTTP/1.1 200") && !answer.starts_with(b"HTTP/1.0 200") {
        return Err(io::Error::other(format!("not 200: {}", String::from_utf8_lossy(&answer[..end]))));
    }
    Ok(answer.split_off(end + 4))
}

/// Reads a request's head and answers with this body.
pub fn answer(mut stream: TcpStream, body: &str) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.extend(byte),
            _ => return,
        }
    }
    // If the client has gone it has seen enough.
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
}
