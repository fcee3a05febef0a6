//! What can be wrong with a backend, and what to do about it.

use std::io;
use std::path::PathBuf;

use ringlet_driver::features::Features;

/// A vhost-user backend cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path is not one that a socket can have, or nothing that can be connected to.
    #[error(
        "cannot connect to {path}: {source}; a vhost-user backend listens at a Unix stream socket that this user may write to"
    )]
    Connect {
        /// Where it should be.
        path: PathBuf,
        /// Why that fails.
        source: io::Error,
    },
    /// We are to listen there, and cannot.
    #[error("cannot listen at {path}: {source}; is another process using it, or is the directory missing?")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Some request was not answered in time.
    #[error(
        "the vhost-user backend did not answer {step} within {seconds} s: is it stopped, or no vhost-user backend at all?"
    )]
    Silent {
        /// The request.
        step: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// The backend ended the connection.
    #[error("the vhost-user backend ended the connection at {step}: its own messages should say why")]
    HungUp {
        /// The request that was under way.
        step: &'static str,
    },
    /// The backend said no.
    #[error("the vhost-user backend refused {step}: its own messages should say why")]
    Refused {
        /// The request.
        step: &'static str,
    },
    /// The backend's answer makes no sense.
    #[error("the vhost-user backend answered {step} with nonsense ({why}): is it a vhost-user backend at all?")]
    Nonsense {
        /// The request.
        step: &'static str,
        /// What is wrong with the answer.
        why: String,
    },
    /// The backend knows only devices of before virtio 1.0.
    #[error(
        "the vhost-user backend does not offer version_1: it is for legacy drivers only, and a newer one is needed"
    )]
    Legacy,
    /// What was agreed on with the guest's driver is more than this backend can do.
    #[error(
        "the vhost-user backend lacks {0}, which the guest's driver has accepted: start it as it was started before"
    )]
    Lacks(Features),
    /// The machine's memory is private.
    #[error("the machine's memory cannot be shared: it must be made by GuestRam::shared")]
    PrivateMemory,
    /// The kernel lacks what is needed to share eventfds with a process that is not trusted.
    #[error("vhost-user is not to be had here: {0}")]
    Kernel(io::Error),
    /// No thread or no descriptor.
    #[error("no descriptor or thread is left for the vhost-user connection: {0}; raise the limit (ulimit -n)")]
    Resources(#[from] io::Error),
}

impl Error {
    /// What became of a request, by what the crate `vhost` says; `expired` if it took too long.
    pub(super) fn of(step: &'static str, error: &vhost::Error, expired: Option<u64>) -> Self {
        use vhost::vhost_user::Error as Protocol;
        if let Some(seconds) = expired {
            return Self::Silent { step, seconds };
        }
        match error {
            vhost::Error::VhostUserProtocol(
                Protocol::Disconnected
                | Protocol::PartialMessage
                | Protocol::SocketBroken(_)
                | Protocol::SocketError(_)
                | Protocol::SocketRetry(_),
            ) => Self::HungUp { step },
            vhost::Error::VhostUserProtocol(Protocol::BackendInternalError) => Self::Refused { step },
            other => Self::Nonsense { step, why: other.to_string() },
        }
    }
}
