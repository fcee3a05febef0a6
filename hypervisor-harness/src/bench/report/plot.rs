//! One picture of one value of a case: a bar for each side's median, and a dot for each round.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Short, Told};

/// Of the picture, in pixels.
const WIDTH: u32 = 760;
const LABELS: i32 = 170;
const ROW: i32 = 30;
const AXIS: i32 = 26;
/// Room to the right of the longest bar, for its number.
const ROOM: i32 = 80;
const OWN: RGBColor = RGBColor(0x1f, 0x6f, 0xb2);
const OTHER: RGBColor = RGBColor(0x9a, 0xa4, 0xad);
const DOT: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const FONT: (&str, i32) = ("sans-serif", 17);

/// Draws one of the values of a case, as SVG. `None` if nobody has been measured.
///
/// # Errors
/// If it cannot be drawn.
pub fn draw(case: &Told, value: usize) -> anyhow::Result<Option<String>> {
    let sides: Vec<_> = case.sides.iter().filter(|side| side.summary(value).is_some()).collect();
    let values = sides.iter().flat_map(|side| side.series(value).map(|(_, value)| value));
    let greatest = values.fold(0.0_f64, f64::max);
    if sides.is_empty() || greatest <= 0.0 {
        return Ok(None);
    }
    let height = AXIS + ROW * sides.len() as i32;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height as u32)).into_drawing_area();
        let failed = |error| anyhow::anyhow!("cannot draw {}: {error}", case.name);
        let x = |value: f64| LABELS + (value / greatest * f64::from(WIDTH as i32 - LABELS - ROOM)) as i32;
        let right = TextStyle::from(FONT).color(&BLACK).pos(Pos::new(HPos::Right, VPos::Center));
        let left = TextStyle::from(FONT).color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        let below = TextStyle::from(("sans-serif", 15)).color(&BLACK).pos(Pos::new(HPos::Center, VPos::Center));
        let step = step(greatest);
        for nth in 0..=(greatest / step) as i32 {
            let at = x(f64::from(nth) * step);
            area.draw(&PathElement::new([(at, 0), (at, height - AXIS + 4)], GRID)).map_err(failed)?;
            let label = Short(f64::from(nth) * step).to_string();
            area.draw(&Text::new(label, (at, height - AXIS / 2), below.clone())).map_err(failed)?;
        }
        for (nth, side) in sides.iter().enumerate() {
            let Some(summary) = side.summary(value) else { continue };
            let top = ROW * nth as i32;
            let middle = top + ROW / 2;
            let colour = if side.name == case.sides[0].name { OWN } else { OTHER };
            let bar = [(LABELS, top + 6), (x(summary.median), top + ROW - 6)];
            area.draw(&Rectangle::new(bar, colour.filled())).map_err(failed)?;
            for (_, value) in side.series(value) {
                area.draw(&Circle::new((x(value), middle), 3, DOT.mix(0.55).filled())).map_err(failed)?;
            }
            area.draw(&Text::new(side.name.clone(), (LABELS - 8, middle), right.clone())).map_err(failed)?;
            let number = Short(summary.median).to_string();
            area.draw(&Text::new(number, (x(summary.greatest) + 8, middle), left.clone())).map_err(failed)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(Some(svg))
}

/// A round distance between two lines of the grid, of which there are three to eight.
fn step(greatest: f64) -> f64 {
    let power = 10_f64.powf(greatest.log10().floor());
    let leading = greatest / power;
    power
        * match leading {
            leading if leading < 1.5 => 0.25,
            leading if leading < 3.0 => 0.5,
            leading if leading < 6.0 => 1.0,
            _ => 2.0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_is_neither_crowded_nor_empty() {
        for greatest in [1e-3, 0.7, 1.0, 1.49, 1.5, 2.99, 3.0, 5.99, 6.0, 9.99, 1234.0, 98_765.0] {
            let lines = (greatest / step(greatest)) as u32;
            assert!((3..=8).contains(&lines), "{greatest}: {lines}");
        }
    }
}
