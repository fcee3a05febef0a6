//! The attribute of a knob: Ringlet's own, for Linux has them in /proc/sys/net/ipv4/vs.

use super::attribute::{Attribute, Violation, Writer};
use super::ipvs::sysctl as kind;

/// The longest name of a knob, without its NUL.
pub const NAME_MAX: usize = 31;

/// A knob: its name, and its value unless that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sysctl<'a> {
    /// Its name, without NUL.
    pub name: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<i32>,
    /// The second of its values, if it is given two at once.
    pub second: Option<i32>,
}

impl<'a> Sysctl<'a> {
    /// The knob in a nest.
    ///
    /// # Errors
    /// An attribute has not the form its type must have.
    pub fn read(nest: &Attribute<'a>) -> Result<Self, Violation> {
        let mut knob = Sysctl::default();
        for attribute in nest.nested()? {
            match attribute.kind {
                kind::NAME => knob.name = Some(attribute.string(NAME_MAX)?),
                kind::VALUE => knob.value = Some(attribute.u32()? as i32),
                kind::SECOND => knob.second = Some(attribute.u32()? as i32),
                _ => {}
            }
        }
        Ok(knob)
    }

    /// Writes the attributes that are there.
    pub fn write(&self, w: &mut Writer<'_>) {
        self.name.inspect(|v| _ = w.string(kind::NAME, v));
        self.value.inspect(|&v| _ = w.u32(kind::VALUE, v as u32));
        self.second.inspect(|&v| _ = w.u32(kind::SECOND, v as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::super::attribute::Attributes;
    use super::*;
    use std::vec;

    #[test]
    fn a_knob_comes_back() {
        for knob in [
            Sysctl { name: Some(b"sloppy_tcp"), value: Some(-1), second: Some(7) },
            Sysctl { name: Some(b"x"), ..Sysctl::default() },
        ] {
            let mut bytes = vec![];
            Writer::new(&mut bytes).nest(65, |w| knob.write(w));
            assert_eq!(Sysctl::read(&Attributes::new(&bytes).next().unwrap()), Ok(knob));
        }
    }
}
