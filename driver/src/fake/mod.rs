//! A network device in memory, and an operating system to go with it, for tests on a host.
//!
//! [`Device`] is what a test holds: it offers features, delivers frames ([`Device::inject`]) and shows what was sent
//! ([`Device::take_sent`]). [`Device::transport`] is what a driver is given, and [`FakeHal`] is the memory it needs.
//!
//! The device keeps to the specification to the letter, and panics when the driver does not: when it is given memory that is
//! not shared with it, a chain that does not end, or a feature it did not offer. It sleeps until its doorbell is rung, and
//! interrupts only when asked to, so that a lost notification is found. On request it misbehaves ([`Mischief`]).
//!
//! Device and driver are to be used on one thread: the device works when it is called.
//!
//! ```
//! use ringlet_driver::{buffer::Pool, fake, features::Features, net::{AnyDevice, Negotiation, Settings}, wire::NetHdr};
//!
//! let fake = fake::Device::new(Features::IMPLEMENTED, [2, 0, 0, 0, 0, 1], 1500);
//! let pool = Pool::allocate::<fake::FakeHal>(512).unwrap();
//! let device = Negotiation::begin(fake.transport())
//!     .unwrap()
//!     .accept::<fake::FakeHal>(Features::IMPLEMENTED, Features::MAC, &pool, Settings::default())
//!     .unwrap();
//! let AnyDevice::Packed(mut device) = device else { panic!("packed rings are offered, and wanted") };
//!
//! assert!(fake.inject(NetHdr::default(), &[0x55; 60]));
//! let frame = device.receive().take().unwrap().expect("a frame was injected");
//! device.transmit().push(frame).unwrap();
//! device.transmit().flush().unwrap();
//! assert_eq!(fake.take_sent(), [(NetHdr::default(), vec![0x55; 60])]);
//! device.close().unwrap();
//! ```

mod device;
mod hal;
pub(crate) mod queue;
mod state;
mod torture;
mod transport;

pub use device::Device;
pub use hal::FakeHal;
#[cfg(test)]
pub(crate) use hal::{pointer, read, write};
pub use state::Mischief;
pub use torture::torture;
pub use transport::FakeTransport;
