//! How a run is shown: to a person, or to a program.

mod json;
mod text;

use std::io;
use std::time::Duration;

pub use json::Json;
pub use text::Text;
pub(crate) use text::{clock, scaled};

use super::picture::{Change, Picture};
use crate::backend::options::{Net, Publish};
use crate::vmm::Outcome;
use crate::vmm::console::Record;

/// What is fixed before the guest starts.
#[derive(Debug, Clone)]
pub struct Facts {
    /// How the image was built; the file's name where it came from one.
    pub image: String,
    /// Size of the image in bytes.
    pub image_size: usize,
    /// Memory of the machine, in MiB.
    pub memory: u32,
    /// The network.
    pub net: Net,
    /// The guest's command line.
    pub command_line: String,
    /// The published ports, as they are really bound.
    pub published: Vec<Publish>,
    /// The management address.
    pub management: std::net::IpAddr,
    /// Whether the demonstration's rules are loaded.
    pub demo: bool,
}

/// A way to show a run. An error is the output's: nobody listens any more.
pub trait View {
    /// The machine is about to start.
    ///
    /// # Errors
    /// If the output cannot be written.
    fn start(&mut self, facts: &Facts) -> io::Result<()>;

    /// The guest said a line.
    ///
    /// # Errors
    /// If the output cannot be written.
    fn line(&mut self, line: &str) -> io::Result<()>;

    /// Something is not as it should be, and the run goes on.
    ///
    /// # Errors
    /// If the output cannot be written.
    fn complaint(&mut self, text: &str) -> io::Result<()>;

    /// A record came, with what it changed in the picture. `up` is the time since the start of this process.
    ///
    /// # Errors
    /// If the output cannot be written.
    fn record(&mut self, record: &Record, change: Change, picture: &Picture, up: Duration) -> io::Result<()>;

    /// The guest has ended; `up` as above.
    ///
    /// # Errors
    /// If the output cannot be written.
    fn end(&mut self, outcome: &Outcome, picture: &Picture, up: Duration) -> io::Result<()>;
}
