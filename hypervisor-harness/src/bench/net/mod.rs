//! Network namespaces that the bench makes for itself, and traffic in them. They have no names: they end with the process,
//! whatever happens to it, and everything in them does.

pub mod inject;
pub mod namespace;
pub mod path;
pub mod traffic;

pub use namespace::Namespace;
pub use path::{Path, Way};
