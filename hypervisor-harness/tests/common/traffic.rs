//! Conversations between hosts, of which each byte is checked.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use ringlet::backend::lan::http::{Hash, pattern};

use super::netns::Host;

const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a server on a host, of both versions of IP: [`converse`] talks to it by TCP, [`echo`] by UDP.
pub fn serve(name: &'static str, host: &Host, tcp: u16, udp: u16) {
    let listener = host.inside(|| TcpListener::bind(("::", tcp))).expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer(name, stream));
        }
    });
    let socket = host.inside(|| UdpSocket::bind(("::", udp))).expect("bound");
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // The client waits for it, and complains.
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}

/// Reads all that the client sends, and answers with the server's name, the hash of what came, and as many bytes.
fn answer(name: &str, mut stream: TcpStream) {
    let (mut hash, mut buffer) = (Hash::default(), vec![0; 1 << 16]);
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        hash.update(&buffer[..count]);
    }
    let mut bytes = vec![0; hash.length() as usize];
    pattern(0, &mut bytes);
    // A client that does not get all of it complains.
    let _ = writeln!(stream, "{name} {:016x}", hash.finish());
    let _ = stream.write_all(&bytes);
}

/// What [`converse`] is to send: so many bytes.
pub fn bytes(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    pattern(0, &mut bytes);
    bytes
}

/// One connection with much data each way, over a half-closed connection. Returns the server's name.
pub fn converse(client: &Host, address: &str, expected: &[u8]) -> String {
    let mut stream = client.inside(|| TcpStream::connect(address)).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(expected).expect("written");
    stream.shutdown(Shutdown::Write).expect("shut");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let line = answer.iter().position(|byte| *byte == b'\n').expect("a line");
    let text = std::str::from_utf8(&answer[..line]).expect("text");
    let (name, found) = text.split_once(' ').expect("a name and a hash");
    let mut hash = Hash::default();
    hash.update(expected);
    assert_eq!(found, format!("{:016x}", hash.finish()), "what {name} received");
    assert!(answer[line + 1..] == *expected, "what {name} sent");
    name.to_owned()
}

/// One datagram, which has to come back. One of many fragments is lost with any of them, and sent again then.
pub fn echo(client: &Host, address: &str, datagram: &[u8]) {
    let any = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = client.inside(|| UdpSocket::bind(any)).expect("bound");
    socket.set_read_timeout(Some(PATIENCE / 12)).expect("a timeout");
    socket.connect(address).expect("connected");
    let mut answer = vec![0; 1 << 16];
    let found = (0..12).find_map(|_| {
        socket.send(datagram).expect("sent");
        socket.recv(&mut answer).ok()
    });
    let length = found.unwrap_or_else(|| panic!("{address}, {} bytes: no answer", datagram.len()));
    assert!(answer[..length] == *datagram, "{address}, {} bytes: another answer", datagram.len());
}
