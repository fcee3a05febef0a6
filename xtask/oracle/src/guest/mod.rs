//! The part of the oracle that runs inside the guest: does what the host says.

mod netlink;
pub mod protocol;

use std::fs::{self, File, OpenOptions};
use std::hint;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

use netlink::Netlink;
use protocol::{Answer, PORT, Request};

/// How often the processor pauses between two looks at the port. A pause takes QEMU long and advances the guest's clock,
/// which counts instructions, by next to nothing: however long the host thinks, little time passes here. The guest must
/// not idle instead: its clock would leap to the next timer.
const PAUSES: usize = 200;

/// Serves the host, for good.
pub fn run() -> anyhow::Result<()> {
    let mut port = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(find_port()?)
        .context("the serial port cannot be opened")?;
    let mut held = Vec::new();
    loop {
        let line = next_line(&mut port, &mut held)?;
        let answer = match serde_json::from_slice(&line).map_err(anyhow::Error::from).and_then(serve) {
            Ok(answer) => answer,
            Err(error) => Answer::Failed(format!("{error:#}")),
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        write_all(&mut port, &text)?;
    }
}

/// The port of our name.
fn find_port() -> anyhow::Result<String> {
    let class = "/sys/class/virtio-ports";
    for entry in fs::read_dir(class).with_context(|| class)? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == PORT) {
            return Ok(format!("/dev/{}", entry.file_name().to_string_lossy()));
        }
    }
    bail!("there is no serial port called {PORT}")
}

fn next_line(port: &mut File, held: &mut Vec<u8>) -> anyhow::Result<Vec<u8>> {
    loop {
        if let Some(end) = held.iter().position(|&byte| byte == b'\n') {
            return Ok(held.drain(..=end).collect());
        }
        let mut buffer = [0; 4096];
        match port.read(&mut buffer) {
            Ok(count) if count > 0 => held.extend_from_slice(&buffer[..count]),
            // 0 while the host is not connected.
            Ok(_) => pause(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => pause(),
            Err(error) => return Err(error.into()),
        }
    }
}

fn write_all(port: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match port.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => pause(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn pause() {
    for _ in 0..PAUSES {
        hint::spin_loop();
    }
}

fn serve(request: Request) -> anyhow::Result<Answer> {
    Ok(match request {
        Request::Run { words, input } => execute(&words, &input)?,
        Request::Read(path) => Answer::Text(fs::read_to_string(&path).with_context(|| path)?),
        Request::Write { path, text } => {
            let mut file = OpenOptions::new().write(true).open(&path).with_context(|| path.clone())?;
            file.write_all(text.as_bytes()).with_context(|| path)?;
            Answer::Done
        }
        Request::Sleep(milliseconds) => {
            thread::sleep(Duration::from_millis(milliseconds));
            Answer::Done
        }
        Request::Ask(message) => Answer::Messages(Netlink::open()?.ask(message)?),
    })
}

fn execute(words: &[String], input: &str) -> anyhow::Result<Answer> {
    let (program, arguments) = words.split_first().context("no program is named")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{program}` cannot be started"))?;
    // It fits into a pipe, so that nobody waits for anybody. A program that does not want it may be gone already.
    let _ = child.stdin.take().map(|mut pipe| pipe.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok(Answer::Ran { code: output.status.code().unwrap_or(-1), text: String::from_utf8_lossy(&text).into_owned() })
}
