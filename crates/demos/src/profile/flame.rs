//! Flame graphs: folded stacks for other tools, and one picture that needs none.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Node, Part, walk};
use crate::story::many;

/// One line for each stack: names joined by semicolons, and the microseconds spent right there.
pub(super) fn folded(main: &Node) -> String {
    let mut text = String::new();
    walk(main, &mut |path, node| {
        let names: Vec<_> = path.iter().map(|(name, _)| name.replace(';', ",")).collect();
        let micros = node.own().as_micros();
        if micros > 0 {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{} {micros}", names.join(";"));
        }
    });
    text
}

const WIDTH: f64 = 1200.0;
const ROW: f64 = 20.0;
const TOP: f64 = 50.0;
/// Narrower boxes are left out: they could not be seen.
const NARROWEST: f64 = 0.3;
/// A letter is about this wide.
const LETTER: f64 = 6.6;

/// Draws callers on top of their callees. The other way would be upside down in a browser that scrolls.
pub(super) fn svg(main: &Node) -> String {
    let mut boxes = String::new();
    let depth =
        draw(&mut boxes, "main", Part::Engine, main, Spot { x: 0.0, row: 0, scale: scale(main.total) });
    #[expect(clippy::cast_precision_loss, reason = "a stack has few rows")]
    let height = TOP + ROW * depth as f64 + 10.0;
    let mut legend = String::new();
    for (number, part) in (0_u32..).zip(Part::ALL) {
        let x = 10.0 + 170.0 * f64::from(number);
        let _ = write!(
            legend,
            r#"<rect x="{x}" y="26" width="12" height="12" fill="{}"/><text x="{}" y="36">{}</text>"#,
            color(part),
            x + 16.0,
            part.name()
        );
    }
    format!(
        r##"<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="11">
<rect width="100%" height="100%" fill="#fffdf8"/>
<text x="10" y="16" font-size="13">{:.1} ms of wall time, callers on top; hover for numbers</text>
{legend}
{boxes}</svg>
"##,
        millis(main.total)
    )
}

/// The place of a box.
#[derive(Clone, Copy)]
struct Spot {
    x: f64,
    row: u32,
    /// Pixels for each second.
    scale: f64,
}

/// Draws a node and the nodes below it, and returns how many rows that took.
fn draw(boxes: &mut String, name: &str, part: Part, node: &Node, spot: Spot) -> usize {
    let width = node.total.as_secs_f64() * spot.scale;
    if width < NARROWEST {
        return spot.row as usize;
    }
    let y = TOP + ROW * f64::from(spot.row);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few hundred letters at most"
    )]
    let letters = (width / LETTER) as usize;
    let label = if letters > 3 { label(name, letters) } else { String::new() };
    let name = escaped(name);
    let calls = many(node.calls, "call", "calls");
    let _ = writeln!(
        boxes,
        r##"<g><title>{name} ({}): {:.2} ms in {calls}, {:.2} ms of its own</title><rect x="{:.2}" y="{y}" width="{:.2}" height="{}" fill="{}" stroke="#fffdf8"/><text x="{:.2}" y="{}">{label}</text></g>"##,
        part.name(),
        millis(node.total),
        millis(node.own()),
        spot.x,
        width,
        ROW - 1.0,
        color(part),
        spot.x + 3.0,
        y + 14.0,
    );
    let mut x = spot.x;
    let mut depth = spot.row as usize + 1;
    for ((name, key), child) in &node.children {
        let below = Spot { x, row: spot.row + 1, scale: spot.scale };
        depth = depth.max(draw(boxes, name, Part::of_key(*key), child, below));
        x += child.total.as_secs_f64() * spot.scale;
    }
    depth
}

fn scale(total: Duration) -> f64 {
    WIDTH / total.as_secs_f64().max(1e-9)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

const fn color(part: Part) -> &'static str {
    match part {
        Part::Engine => "#9ecae1",
        Part::Commit => "#fdae6b",
        Part::StepBody => "#a1d99b",
        Part::ApplicationDatabase => "#bcbddc",
        Part::Wait => "#d9d9d9",
    }
}

/// The beginning of a name. It is cut before it is escaped, because the cut could go through an escape.
fn label(name: &str, letters: usize) -> String {
    escaped(&name.chars().take(letters).collect::<String>())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn folded_stacks_have_the_microseconds_of_each_stack() {
        assert_eq!(
            folded(&sample()),
            "main 10000\n\
             main;users_workflow 25000\n\
             main;users_workflow;commit record_step 20000\n\
             main;users_workflow;insert_users_page 5000\n\
             main;users_workflow;step users 40000\n"
        );
    }

    #[test]
    fn the_picture_needs_nothing_from_elsewhere() {
        let svg = svg(&sample());
        assert!(svg.contains("step users (step body): 40.00 ms in 10 calls"), "{svg}");
        assert_eq!(svg.matches("http").count(), 1, "only the name of the format");
        assert!(!svg.contains("<script"));
    }

    #[test]
    fn names_cannot_break_out_of_the_picture() {
        let mut main = sample();
        main.children.insert(("<script>\"&".to_owned(), 0), main.children.values().next().unwrap().clone());
        assert!(svg(&main).contains("&lt;script&gt;&quot;&amp;"));
    }

    #[test]
    fn a_label_is_cut_between_its_letters_and_not_in_an_escape() {
        assert_eq!(label("a<b>c", 2), "a&lt;");
        assert_eq!(label("a<b>c", 4), "a&lt;b&gt;");
        assert_eq!(label("a<b>c", 9), "a&lt;b&gt;c");
    }

    #[test]
    fn one_call_is_one_call() {
        let svg = svg(&sample());
        assert!(svg.contains("insert_users_page (application database): 5.00 ms in 1 call, "), "{svg}");
        assert!(svg.contains("ms in 2 calls, "), "{svg}");
        assert!(!svg.contains("in 1 calls"), "{svg}");
    }
}
