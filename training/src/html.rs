//! Pieces of a report that needs nothing but itself: head, embedded pictures, curves and box plots as inline SVG.

use crate::base64::base64;
use std::fmt::Write;

/// Colours of series, told apart by colour-blind readers too (Okabe and Ito), then darker ones.
const COLOURS: [&str; 12] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d00", "#004c77", "#8f3e00",
    "#006b4e", "#7f4a69",
];

/// Colour of series number `number`.
pub fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

/// The beginning of a page, with its headline.
pub fn head(title: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
         <style>body{{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}}\
         table{{border-collapse:collapse;margin:1em 0}}td,th{{border:1px solid #ccc;padding:.2em .7em;text-align:right}}\
         td:first-child,th:first-child{{text-align:left}}small{{color:#666;white-space:nowrap}}\
         .wide{{overflow-x:auto}}.wide img{{max-width:none}}\
         svg{{max-width:100%}}img{{max-width:100%;image-rendering:pixelated}}\
         pre{{background:#f4f4f4;padding:1em;overflow:auto}}</style><h1>{title}</h1>"
    )
}

/// Text that may stand between tags and in attributes.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A PNG file as part of the page.
pub fn picture(alternative: &str, png: &[u8]) -> String {
    format!("<img alt=\"{}\" src=\"data:image/png;base64,{}\">", escaped(alternative), base64(png))
}

/// Columns of log.csv by name, as (step, value); empty cells are left out.
pub fn columns(log: &str) -> Vec<(String, Vec<(f64, f64)>)> {
    let mut lines = log.lines().map(|line| line.split(','));
    let names = lines.next().into_iter().flatten().skip(1);
    let mut columns: Vec<_> = names.map(|name| (name.to_owned(), Vec::new())).collect();
    for mut cells in lines {
        let Some(step) = cells.next().and_then(|cell| cell.parse().ok()) else { continue };
        for ((_, points), cell) in columns.iter_mut().zip(cells) {
            points.extend(cell.parse().ok().map(|value: f64| (step, value)));
        }
    }
    columns
}

/// A line of a chart.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Line<'a> {
    pub colour: &'a str,
    /// (x, y); what is not finite is left out.
    pub points: &'a [(f64, f64)],
}

/// Lines in one frame, with the ranges written at its axes; `unit` stands before the last x.
pub fn curves(title: &str, unit: &str, height: f64, lines: &[Line]) -> String {
    let (width, left, top) = (640.0, 70.0, 22.0);
    let range = |value: fn(&(f64, f64)) -> f64| {
        extent(lines.iter().flat_map(|line| line.points).filter(|(x, y)| x.is_finite() && y.is_finite()).map(value))
    };
    let ((x0, x1), (y0, y1)) = (range(|point| point.0), range(|point| point.1));
    let mut svg = frame(title, (left, top), (width, height), (y0, y1), 4);
    for Line { colour, points } in lines {
        let points: String = (points.iter().filter(|(x, y)| x.is_finite() && y.is_finite()))
            .map(|&(x, y)| {
                format!("{:.1},{:.1} ", left + part(x, (x0, x1)) * width, top + (1.0 - part(y, (y0, y1))) * height)
            })
            .collect();
        let _ = write!(svg, "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\"/>");
    }
    let (right, below) = (left + width, top + height + 15.0);
    let _ = write!(
        svg,
        "<text x=\"{right}\" y=\"{below}\" font-size=\"11\" text-anchor=\"end\">{} {x1}</text></svg>",
        escaped(unit)
    );
    svg
}

/// Names with the colours of their lines or boxes.
pub fn legend<'a>(names: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let entry =
        |(name, colour): (&str, &str)| format!("<span style=\"color:{colour}\">■</span> {} &nbsp; ", escaped(name));
    format!("<p>{}</p>", names.into_iter().map(entry).collect::<String>())
}

/// A group of box plots with what is written below it; each box has a colour and its values.
pub type Boxes<'a> = (String, Vec<(&'a str, Vec<f64>)>);

/// Box plots: median and quartiles; whiskers to the farthest values within 1.5 times the distance of the quartiles;
/// every value as a dot. Values must be finite.
pub fn box_plots(title: &str, groups: &[Boxes]) -> String {
    let (left, top, height, place, gap) = (70.0, 22.0, 240.0, 34.0, 26.0);
    let boxes: usize = groups.iter().map(|(_, boxes)| boxes.len()).sum();
    let width = boxes as f64 * place + gap * (groups.len() + 1) as f64;
    let range = extent(groups.iter().flat_map(|(_, boxes)| boxes).flat_map(|(_, values)| values).copied());
    let mut svg = frame(title, (left, top), (width, height), range, 3);
    let y = |value: f64| top + (1.0 - part(value, range)) * height;
    let mut x = left + gap;
    for (name, boxes) in groups {
        let middle = x + boxes.len() as f64 * place / 2.0;
        let _ = write!(
            svg,
            "<text x=\"{middle:.1}\" y=\"{:.1}\" font-size=\"12\" text-anchor=\"middle\">{}</text>",
            top + height + 15.0,
            escaped(name)
        );
        for (colour, values) in boxes {
            let centre = x + place / 2.0;
            if let Some([least, low, median, high, most]) = five_numbers(values) {
                let _ = write!(
                    svg,
                    "<g stroke=\"{colour}\" fill=\"none\"><path d=\"M{centre:.1} {:.1}V{:.1}M{centre:.1} {:.1}V{:.1}\"/>\
                     <rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\" fill-opacity=\"0.2\"/>\
                     <path stroke-width=\"2\" d=\"M{:.1} {:.1}h{:.1}\"/></g>",
                    y(least),
                    y(low),
                    y(high),
                    y(most),
                    x + 5.0,
                    y(high),
                    place - 10.0,
                    y(low) - y(high),
                    x + 5.0,
                    y(median),
                    place - 10.0
                );
            }
            for value in values {
                let _ = write!(svg, "<circle cx=\"{centre:.1}\" cy=\"{:.1}\" r=\"1.3\" fill=\"{colour}\"/>", y(*value));
            }
            x += place;
        }
        x += gap;
    }
    svg.push_str("</svg>");
    svg
}

/// The beginning of a chart: title, frame, and the range of y.
fn frame(
    title: &str,
    (left, top): (f64, f64),
    (width, height): (f64, f64),
    (y0, y1): (f64, f64),
    digits: usize,
) -> String {
    format!(
        "<svg viewBox=\"0 0 {w} {h}\" width=\"{w}\"><text x=\"{left}\" y=\"14\" font-size=\"13\">{title}</text>\
         <rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#ccc\"/>\
         <g font-size=\"11\" text-anchor=\"end\"><text x=\"{l}\" y=\"{t}\">{y1:.digits$}</text>\
         <text x=\"{l}\" y=\"{b}\">{y0:.digits$}</text></g>",
        w = left + width + 10.0,
        h = top + height + 22.0,
        title = escaped(title),
        l = left - 6.0,
        t = top + 11.0,
        b = top + height,
    )
}

/// Least and largest.
fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

/// How far along a range a value lies, 0 to 1; the middle of a range of no width.
fn part(value: f64, (low, high): (f64, f64)) -> f64 {
    if high > low { (value - low) / (high - low) } else { 0.5 }
}

/// Lower whisker, quartile, median, quartile, upper whisker; none of no or not finite values.
fn five_numbers(values: &[f64]) -> Option<[f64; 5]> {
    let percentile = |q| mdr::metrics::percentile(values, q).ok();
    let (low, median, high) = (percentile(25.0)?, percentile(50.0)?, percentile(75.0)?);
    let reach = 1.5 * (high - low);
    let inside = values.iter().copied().filter(|value| (low - reach..=high + reach).contains(value));
    let (least, most) = extent(inside);
    Some([least, low, median, high, most])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_skip_empty_cells() {
        let log = "step,rate,psnr,loss\n10,1,,0.5\n20,1,7.5,0.25\n30,1,8,0.2\n";
        let columns = columns(log);
        assert_eq!(columns[1], ("psnr".to_owned(), vec![(20.0, 7.5), (30.0, 8.0)]));
        assert_eq!(columns[2].1.len(), 3);
    }

    #[test]
    fn whiskers_end_at_the_farthest_value_that_is_no_outlier() {
        // numpy.percentile: 25 → 2, 50 → 3, 75 → 4; 1.5 · 2 beyond the quartiles: -1 to 7.
        assert_eq!(five_numbers(&[1.0, 2.0, 3.0, 4.0, 20.0]), Some([1.0, 2.0, 3.0, 4.0, 4.0]));
        assert_eq!(five_numbers(&[5.0]), Some([5.0; 5]));
        assert_eq!(five_numbers(&[]), None);
    }
}
