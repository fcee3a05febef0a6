mod interleavings;
mod life;
mod packed;
mod rust_vmm;
mod split;

use super::*;
use crate::virtio::testing::{BUFFERS, place};
use crate::vmm::GuestRam;

const END: u64 = 32 << 20;
const MODE: Mode = Mode { event_idx: false, indirect: true, in_order: false };

#[test]
fn what_was_negotiated_says_how_a_queue_works() {
    let none = Mode { event_idx: false, indirect: false, in_order: false };
    for (feature, mode) in [
        (Features::EVENT_IDX, Mode { event_idx: true, ..none }),
        (Features::INDIRECT_DESC, Mode { indirect: true, ..none }),
        (Features::IN_ORDER, Mode { in_order: true, ..none }),
        (Features::VERSION_1, none),
    ] {
        assert_eq!(Mode::from(feature), mode, "{feature}");
    }
}

#[test]
fn places_are_checked() {
    let memory = Memory::new(GuestRam::new(32).unwrap());
    let good = place(0, 256);
    for packed in [false, true] {
        assert_eq!(good.check(&memory, 256, packed), Ok(()));
        for size in [0, 512] {
            assert_eq!(
                Place { size, ..good }.check(&memory, 256, packed),
                Err(Misplaced::Size { size, greatest: 256, packed })
            );
        }
    }
    let three = Place { size: 3, ..good };
    assert_eq!(three.check(&memory, 256, true), Ok(()));
    assert_eq!(three.check(&memory, 256, false), Err(Misplaced::Size { size: 3, greatest: 256, packed: false }));
    let error = |place: Place| place.check(&memory, 256, false).unwrap_err().to_string();
    assert_eq!(
        error(Place { driver: good.driver + 1, ..good }),
        "the available ring at 0x108001 is not aligned to 2 bytes"
    );
    assert!(error(Place { device: good.device + 2, ..good }).contains("aligned to 4"));
    assert!(error(Place { descriptors: good.descriptors + 8, ..good }).contains("aligned to 16"));
    assert!(error(Place { descriptors: END - 16, ..good }).contains("0x1fffff0 (+4096 bytes) is not in"));
    assert!(error(Place { device: u64::MAX - 3, ..good }).contains("is not in the guest's memory"));
    let error = |place: Place| place.check(&memory, 256, true).unwrap_err().to_string();
    assert!(error(Place { driver: good.driver + 2, ..good }).contains("aligned to 4"));
    assert!(error(Place { device: END - 2, ..good }).contains("is not aligned to 4"));
    assert!(error(Place { device: END, ..good }).contains("is not in the guest's memory"));
    assert!(error(Place { descriptors: END - 4080, ..good }).contains("(+4096 bytes) is not in"));
}
