//! A running program of others.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;

use anyhow::{Context, bail};

/// A running program. It ends when it is dropped, with all that it has started; and with the thread that has started it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// It has been waited for: its number may be somebody else's.
    over: bool,
}

/// The numbers of those that run.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Ends a program with all processes that it has started: they are one group (see [`leash`]).
fn end(id: u32) {
    if let Ok(group) = libc::pid_t::try_from(id) {
        // SAFETY: `kill` takes no pointers. The group is one that was made for a child of ours which has not been waited for.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

/// Ends everything that still runs, where nobody will come to drop it.
pub fn end_all() {
    if let Ok(running) = RUNNING.lock() {
        running.iter().copied().for_each(end);
    }
}

/// Sees to it that what the command starts does not outlive this thread, and hears nothing of a Ctrl-C, which is for us.
pub fn leash(command: &mut Command) -> &mut Command {
    command.process_group(0);
    // SAFETY: between fork and exec only prctl is called, which is a plain system call.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        })
    }
}

impl Process {
    /// Starts a program that has nothing to say but errors.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(name: &str, command: &mut Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = leash(command).spawn().with_context(|| format!("cannot run {name}"))?;
        if let Ok(mut running) = RUNNING.lock() {
            running.insert(child.id());
        }
        Ok(Self { name: name.to_owned(), child, over: false })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended, with what it has said.
    ///
    /// # Errors
    /// If it has ended.
    pub fn alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().with_context(|| format!("cannot ask for {}", self.name))? {
            None => Ok(()),
            Some(status) => {
                self.forget();
                bail!("{}", self.epitaph(status))
            }
        }
    }

    fn forget(&mut self) {
        self.over = true;
        if let Ok(mut running) = RUNNING.lock() {
            running.remove(&self.child.id());
        }
    }

    fn epitaph(&mut self, status: ExitStatus) -> String {
        let mut said = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            // What it has said is worth less than how it ended.
            let _ = pipe.read_to_string(&mut said);
        }
        format!("{} has ended ({status}): {}", self.name, said.trim().replace('\n', "; "))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.over {
            end(self.child.id());
            self.forget();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn what_a_program_said_last_is_told() {
        let mut process =
            Process::start("sh", Command::new("sh").args(["-c", "echo one >&2; echo two >&2; exit 3"])).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let error = loop {
            match process.alive() {
                Err(error) => break error.to_string(),
                Ok(()) => assert!(Instant::now() < until),
            }
            std::thread::yield_now();
        };
        assert_eq!(error, "sh has ended (exit status: 3): one; two");
        assert!(Process::start("nothing", &mut Command::new("/nonexistent")).is_err());
    }

    #[test]
    fn a_program_ends_with_its_handle() {
        let process = Process::start("sleep", Command::new("sleep").arg("1000")).unwrap();
        let path = format!("/proc/{}", process.id());
        assert!(std::path::Path::new(&path).exists());
        drop(process);
        assert!(!std::path::Path::new(&path).exists());
    }
}
