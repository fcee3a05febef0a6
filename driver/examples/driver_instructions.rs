//! What `cargo xtask test instructions` counts: frames received and sent again by the driver, on the fake device, under
//! callgrind, which counts in [`measured`] only. `driver_instructions RINGS FRAMES`.

use ringlet_driver::buffer::{Frame, Pool};
use ringlet_driver::fake::{self, FakeHal};
use ringlet_driver::features::Features;
use ringlet_driver::net::{AnyDevice, Device, Negotiation, Receive, Settings, Transmit};
use ringlet_driver::ring::Virtqueue;
use ringlet_driver::transport::NetTransport;
use ringlet_driver::wire::NetHdr;

const BURST: usize = 32;

/// What is counted: a turn of a loop that sends back what has come.
#[inline(never)]
fn measured<R: Virtqueue<Frame>>(receive: &mut Receive<R>, transmit: &mut Transmit<R>) -> usize {
    let mut burst = [const { None }; BURST];
    let count = receive.burst(&mut burst).expect("the device does not lie");
    for frame in burst.iter_mut().filter_map(Option::take) {
        transmit.push(frame).expect("there is room");
    }
    transmit.flush().expect("the device does not lie");
    transmit.reap().expect("the device does not lie");
    receive.refill();
    count
}

fn run<R: Virtqueue<Frame>, T: NetTransport>(device: Device<R, T>, fake: &fake::Device, frames: usize) {
    let (mut receive, mut transmit, _control) = device.split();
    let mut sent = 0;
    receive.refill();
    for _ in 0..frames.div_ceil(BURST) {
        for _ in 0..BURST {
            assert!(fake.inject(NetHdr::default(), &[7; 60]), "there is room");
        }
        assert_eq!(measured(&mut receive, &mut transmit), BURST);
        sent += fake.take_sent().len();
    }
    assert_eq!(sent, frames.next_multiple_of(BURST), "each frame goes on");
    println!("{sent}");
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (rings, frames) = match &arguments[..] {
        [_, rings, frames] => (rings.as_str(), frames.parse().expect("a number of frames")),
        _ => panic!("expected a kind of ring and a number of frames"),
    };
    let wanted = match rings {
        "split" => Features::IMPLEMENTED - Features::RING_PACKED,
        "packed" => Features::IMPLEMENTED,
        other => panic!("no kind of ring is called {other}"),
    };
    let fake = fake::Device::new(wanted, [2, 0, 0, 0, 0, 1], 1500);
    let pool = Pool::allocate::<FakeHal>(1024).expect("memory");
    let begun = Negotiation::begin(fake.transport()).expect("a device");
    match begun.accept::<FakeHal>(wanted, Features::MAC, &pool, Settings::default()).expect("a device") {
        AnyDevice::Split(device) => run(device, &fake, frames),
        AnyDevice::Packed(device) => run(device, &fake, frames),
    }
}
