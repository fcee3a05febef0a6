//! What the host says to the agent in the guest, and what it hears: one line of JSON each, over a virtio serial port.

use serde::{Deserialize, Serialize};

/// The name of the serial port.
pub const PORT: &str = "oracle";

/// What the agent is to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Run a program to its end.
    Run {
        /// The program and its arguments.
        words: Vec<String>,
        /// Its standard input.
        input: String,
    },
    /// Read a file.
    Read(String),
    /// Write a file that is there.
    Write {
        /// The file.
        path: String,
        /// What is written, all at once.
        text: String,
    },
    /// Let the clock of the guest go on by so many milliseconds, and nothing else happen.
    Sleep(u64),
    /// Send this generic-netlink message to IPVS; the family's number is filled in.
    Ask(Vec<u8>),
}

/// What the agent says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// A program ran.
    Ran {
        /// Its exit code.
        code: i32,
        /// What it said, standard error last.
        text: String,
    },
    /// What a file holds.
    Text(String),
    /// The messages that answer a request, up to and with the error or the end of the list.
    Messages(Vec<Vec<u8>>),
    /// It is done.
    Done,
    /// It cannot be done.
    Failed(String),
}
