//! Run folder → report.html: figures, curves, pictures, config, in one file that needs nothing else. It reads nothing but
//! the run folder, so it can be made again at any time.

use crate::base64::base64;
use crate::train::{RunFolder, write};
use anyhow::{Context, Result};
use std::fmt::Write;

/// Writes report.html into the run folder.
///
/// # Errors
/// Where log.csv cannot be read or the report cannot be written; other files may be missing.
pub fn write_report(run: &RunFolder) -> Result<()> {
    let log = std::fs::read_to_string(run.log()).with_context(|| run.log().display().to_string())?;
    let config = std::fs::read_to_string(run.config()).unwrap_or_default();
    let mut html = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>mdr-train report</title>\
         <style>body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}\
         table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .7em;text-align:right}\
         td:first-child,th:first-child{text-align:left}svg{max-width:100%}img{max-width:100%;image-rendering:pixelated}\
         pre{background:#f4f4f4;padding:1em;overflow:auto}</style><h1>mdr-train report</h1>",
    );
    figures(&mut html, run)?;
    let columns = columns(&log);
    html.push_str("<h2>Curves</h2>");
    for (name, points) in &columns {
        html.push_str(&curve(name, points));
    }
    if let Some(picture) = last_picture(run) {
        let bytes = std::fs::read(&picture).with_context(|| picture.display().to_string())?;
        let name = picture.file_stem().unwrap_or_default().to_string_lossy();
        let _ = write!(
            html,
            "<h2>Validation pictures, step {}</h2><p>degraded | restored | reference, each scaled by its own percentiles \
             0.1 and 99.9</p><img alt=\"validation pictures\" src=\"data:image/png;base64,{}\">",
            name.trim_start_matches('0'),
            base64(&bytes)
        );
    }
    let _ = writeln!(html, "<h2>Config</h2><pre>{}</pre></html>", escaped(&config));
    write(&run.report(), html.as_bytes())
}

/// Table of the best validation, and the parity check.
fn figures(html: &mut String, run: &RunFolder) -> Result<()> {
    let json = |path| -> Option<serde_json::Value> {
        let text = std::fs::read_to_string(path).ok()?;
        serde_json::from_str(&text).ok()
    };
    if let Some(best) = json(run.scores()) {
        let _ = write!(
            html,
            "<h2>Best validation: step {}, {} planes</h2><p>{}</p><table><tr><th><th>PSNR affine, dB<th>SSIM affine<th>PSNR, dB\
             <th>SSIM</tr>",
            best["step"],
            best["images"],
            escaped(best["data"].as_str().unwrap_or_default())
        );
        for row in ["input", "restored"] {
            let cell = |name: &str, digits| match best[row][name].as_f64() {
                Some(value) => format!("<td>{value:.digits$}"),
                None => "<td>".to_owned(),
            };
            let cells = [cell("psnr_affine", 2), cell("ssim_affine", 3), cell("psnr", 2), cell("ssim", 3)].concat();
            let _ = write!(html, "<tr><td>{row}{cells}</tr>");
        }
        let _ = write!(html, "</table><p>{}</p>", escaped(best["protocol"].as_str().unwrap_or_default()));
    }
    if let Some(parity) = json(run.parity()) {
        let _ = write!(
            html,
            "<p>Export: tch and mdr differ by {:.1e} of the output range at most (allowed: {:.0e}).</p>",
            parity["worst"].as_f64().unwrap_or(f64::NAN),
            parity["tolerance"].as_f64().unwrap_or(f64::NAN)
        );
    }
    Ok(())
}

/// Columns of log.csv by name, as (step, value); empty cells are left out.
fn columns(log: &str) -> Vec<(String, Vec<(f64, f64)>)> {
    let mut lines = log.lines().map(|line| line.split(','));
    let names = lines.next().into_iter().flatten().skip(1);
    let mut columns: Vec<_> = names.map(|name| (name.to_owned(), Vec::new())).collect();
    for mut cells in lines {
        let Some(step) = cells.next().and_then(|cell| cell.parse().ok()) else { continue };
        for ((_, points), cell) in columns.iter_mut().zip(cells) {
            points.extend(cell.parse().ok().map(|value: f64| (step, value)));
        }
    }
    columns.retain(|(_, points)| points.len() > 1);
    columns
}

/// One curve as inline SVG, with the range written at its axes.
fn curve(name: &str, points: &[(f64, f64)]) -> String {
    let (width, height, left, top) = (640.0, 160.0, 70.0, 22.0);
    let range = |value: fn(&(f64, f64)) -> f64| {
        let values = || points.iter().map(value).filter(|value| value.is_finite());
        (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
    };
    let ((x0, x1), (y0, y1)) = (range(|point| point.0), range(|point| point.1));
    let part = |value: f64, low: f64, high: f64| if high > low { (value - low) / (high - low) } else { 0.5 };
    let line: String = points
        .iter()
        .filter(|(_, y)| y.is_finite())
        .map(|&(x, y)| format!("{:.1},{:.1} ", left + part(x, x0, x1) * width, top + (1.0 - part(y, y0, y1)) * height))
        .collect();
    format!(
        "<svg viewBox=\"0 0 {w} {h}\" width=\"{w}\"><text x=\"{left}\" y=\"14\" font-size=\"13\">{name}</text>\
         <rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#ccc\"/>\
         <polyline points=\"{line}\" fill=\"none\" stroke=\"#06c\"/>\
         <g font-size=\"11\" text-anchor=\"end\"><text x=\"{l}\" y=\"{t}\">{y1:.4}</text>\
         <text x=\"{l}\" y=\"{b}\">{y0:.4}</text><text x=\"{r}\" y=\"{h1}\">step {x1}</text></g></svg>",
        w = left + width + 10.0,
        h = top + height + 22.0,
        name = escaped(name),
        l = left - 6.0,
        t = top + 11.0,
        b = top + height,
        r = left + width,
        h1 = top + height + 15.0,
    )
}

fn last_picture(run: &RunFolder) -> Option<std::path::PathBuf> {
    let entries = std::fs::read_dir(run.samples()).ok()?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "png"))
        .max()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
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
}
