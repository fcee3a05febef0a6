//! Why a control operation was refused, by the names and numbers Linux uses.

/// An error of a control operation. [`Errno::number`] is what goes into a netlink error message (negated there).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Errno {
    /// The operation is not allowed to this caller.
    #[error("operation not permitted")]
    Permission,
    /// There is no such destination, scheduler or persistence engine.
    #[error("no such destination, scheduler or persistence engine")]
    NotFound,
    /// There is no such service.
    #[error("no such service")]
    NoService,
    /// The pool this would be taken from is full.
    #[error("out of memory")]
    OutOfMemory,
    /// The service or destination exists already.
    #[error("service or destination exists already")]
    Exists,
    /// There is no interface of that name.
    #[error("no such interface")]
    NoDevice,
    /// An argument makes no sense here.
    #[error("invalid argument")]
    Invalid,
    /// A weight is negative, or the lower threshold lies above the upper.
    #[error("weight or threshold out of range")]
    OutOfRange,
    /// Linux can do this and this balancer cannot.
    #[error("not supported by this balancer")]
    NotSupported,
    /// The address family is neither IPv4 nor IPv6.
    #[error("address family not supported")]
    AddressFamily,
    /// The transport protocol is not balanced.
    #[error("transport protocol not supported")]
    Protocol,
}

impl Errno {
    /// The number of Linux on x86-64 (asm-generic/errno.h), positive.
    pub const fn number(self) -> i32 {
        match self {
            Errno::Permission => 1,     // EPERM
            Errno::NotFound => 2,       // ENOENT
            Errno::NoService => 3,      // ESRCH
            Errno::OutOfMemory => 12,   // ENOMEM
            Errno::Exists => 17,        // EEXIST
            Errno::NoDevice => 19,      // ENODEV
            Errno::Invalid => 22,       // EINVAL
            Errno::OutOfRange => 34,    // ERANGE
            Errno::Protocol => 93,      // EPROTONOSUPPORT
            Errno::NotSupported => 95,  // EOPNOTSUPP
            Errno::AddressFamily => 97, // EAFNOSUPPORT
        }
    }
}
