//! Guests of a few bytes, in 32-bit machine code.

/// Where a guest's code lies, and where it is entered.
pub const CODE: u32 = 0x10_0000;

/// An ELF image with one segment at 1 MiB that holds `code`, then 64 KiB of bss, entered at its first byte.
pub fn elf(code: &[u8]) -> Vec<u8> {
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let program =
        |kind: u32, flags: u32, rest: [u64; 6]| [&kind.to_le_bytes()[..], &flags.to_le_bytes(), &words(&rest)].concat();
    let (note_at, size, entry) = (64 + 2 * 56, code.len() as u64, u64::from(CODE));
    [
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec(),
        words(&[entry, 64, 0]),
        vec![0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 0, 0, 0, 0, 0, 0],
        program(1, 7, [note_at + 20, entry, entry, size, size + 0x1_0000, 1]),
        program(4, 4, [note_at, 0, 0, 20, 20, 4]),
        [4_u32, 4, 18].iter().flat_map(|word| word.to_le_bytes()).collect(),
        b"Xen\0".to_vec(),
        CODE.to_le_bytes().to_vec(),
        code.to_vec(),
    ]
    .concat()
}

/// Ends the guest with this code.
pub fn exit(code: u8) -> Vec<u8> {
    vec![0xb0, code, 0xe6, 0xf4] // mov al, code; out 0xf4, al
}

/// Says this on the serial port.
pub fn say(text: &[u8]) -> Vec<u8> {
    let mut code = vec![0x66, 0xba, 0xf8, 0x03]; // mov dx, 0x3f8
    code.extend(text.iter().flat_map(|byte| [0xb0, *byte, 0xee])); // mov al, byte; out dx, al
    code
}

/// Gives the block console the message at this address.
pub fn block(address: u32) -> Vec<u8> {
    [&[0xb8][..], &address.to_le_bytes(), &[0x66, 0xba, 0x00, 0x05, 0xef]].concat() // mov eax, address; mov dx, 0x500; out dx, eax
}

/// Goes on if the flags say "equal", else ends the guest with code 0x66.
pub fn expect_equal() -> Vec<u8> {
    [&[0x74, 0x04][..], &exit(0x66)].concat() // je past the exit
}
