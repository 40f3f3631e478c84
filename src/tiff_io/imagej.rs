//! ImageJ's metadata, both ways: the `key=value` lines in ImageDescription (sizes, calibration, display), and the
//! binary blocks in tags 50838 and 50839 (Info, slice labels, display ranges, lookup tables, overlays). Pages of a
//! hyperstack follow each other with C fastest, then Z, then T.
//!
//! ImageJ reads the planes of its own files as one run of bytes after the first page's offset and ignores the other
//! directories; `write` therefore keeps the planes contiguous.

use super::ome;
use crate::image::{Extra, ImageJMetadata, OtherGrid};
use crate::{ImageInfo, PixelType, Shape};
use std::fmt::Write;

/// Keys that are written anew; all others are carried.
const OWN_KEYS: [&str; 11] = [
    "ImageJ",
    "images",
    "channels",
    "slices",
    "frames",
    "hyperstack",
    "unit",
    "yunit",
    "zunit",
    "spacing",
    "finterval",
];

/// The lines of an ImageDescription that begins with `ImageJ=`.
pub(super) struct Description(Vec<(String, String)>);

impl Description {
    /// Parses a description; `None` where it is not ImageJ's.
    pub fn parse(text: &str) -> Option<Self> {
        let pairs = || text.lines().filter_map(|line| line.trim_end_matches('\r').split_once('='));
        text.starts_with("ImageJ=").then(|| Self(pairs().map(|(k, v)| (k.trim().into(), v.trim().into())).collect()))
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    fn count(&self, key: &str) -> Option<usize> {
        self.get(key)?.parse().ok().filter(|&count| count > 0)
    }

    fn positive(&self, key: &str) -> Option<f64> {
        self.get(key)?.parse().ok().filter(|value: &f64| value.is_finite() && *value > 0.0)
    }

    /// Number of planes, where it is given.
    pub fn images(&self) -> Option<usize> {
        self.count("images")
    }

    /// Lengths of T, Z and C as pages follow each other, slowest first; `None` where they contradict `planes`.
    pub fn dims(&self, planes: usize) -> Option<Vec<(char, usize)>> {
        let axes = [('T', "frames"), ('Z', "slices"), ('C', "channels")];
        let dims = axes.map(|(axis, key)| (axis, self.count(key).unwrap_or(1)));
        let product = dims.iter().try_fold(1usize, |product, &(_, len)| product.checked_mul(len))?;
        if product == planes {
            return Some(dims.to_vec());
        }
        // A plain stack has no `slices`.
        (product == 1 && self.images() == Some(planes)).then(|| vec![('Z', planes)])
    }

    /// Length of the unit in µm.
    pub fn unit_um(&self) -> Option<f64> {
        unit_um(self.get("unit")?)
    }

    /// Length of the unit along Y in µm.
    pub fn y_unit_um(&self) -> Option<f64> {
        unit_um(self.get("yunit").or(self.get("unit"))?)
    }

    /// The unit along Y, where it is none of length.
    pub fn other_y_unit(&self) -> Option<&str> {
        self.get("yunit").filter(|unit| unit_um(unit).is_none())
    }

    /// Z step in µm.
    pub fn z_step_um(&self) -> Option<f64> {
        let unit = self.get("zunit").map_or_else(|| self.unit_um(), unit_um)?;
        // Stacks that were scanned downwards have a negative spacing.
        let spacing = self.get("spacing")?.parse::<f64>().ok()?.abs();
        (spacing.is_finite() && spacing > 0.0).then_some(spacing * unit)
    }

    /// The calibration with so many pixels per unit along Y and X, where the unit is not known.
    pub fn other_grid(&self, pixels_per_unit: [f64; 2]) -> Option<OtherGrid> {
        let spacing =
            self.get("spacing").and_then(|spacing| spacing.parse().ok()).filter(|step: &f64| step.is_normal());
        let named = self.0.iter().filter(|(key, _)| ["unit", "yunit", "zunit"].contains(&key.as_str()));
        let units: Vec<_> = named.cloned().collect();
        let says = spacing.is_some() || !units.is_empty() || pixels_per_unit != [1.0; 2];
        (says && self.unit_um().is_none()).then_some(OtherGrid { pixels_per_unit, spacing, units })
    }

    /// Time between frames in seconds.
    pub fn frame_interval_s(&self) -> Option<f64> {
        Some(self.positive("finterval")? * unit_s(self.get("tunit").unwrap_or("s"))?)
    }

    /// What is carried to the result as it is.
    pub fn carried(self) -> Vec<(String, String)> {
        // The time unit goes with the interval, which is written in seconds.
        self.0.into_iter().filter(|(key, _)| !OWN_KEYS.contains(&key.as_str()) && key != "tunit").collect()
    }
}

/// Length in µm of a unit by any of its names.
pub(super) fn unit_um(unit: &str) -> Option<f64> {
    Some(match unit.replace("\\u00B5", "µ").replace("\\u00b5", "µ").replace('μ', "µ").as_str() {
        "µm" | "um" | "micron" | "microns" | "micrometer" | "micrometers" | "micrometre" => 1.0,
        "nm" | "nanometer" | "nanometers" => 1e-3,
        "pm" => 1e-6,
        "Å" | "A" | "angstrom" => 1e-4,
        "mm" | "millimeter" | "millimeters" => 1e3,
        "cm" | "centimeter" | "centimeters" => 1e4,
        "m" | "meter" | "meters" => 1e6,
        "inch" | "inches" | "in" | "\"" => 25_400.0,
        _ => return None,
    })
}

/// Length in seconds of a unit by any of its names.
pub(super) fn unit_s(unit: &str) -> Option<f64> {
    Some(match unit.replace("\\u00B5", "µ").replace("\\u00b5", "µ").replace('μ', "µ").to_lowercase().as_str() {
        "ns" | "nsec" | "nanosecond" | "nanoseconds" => 1e-9,
        "µs" | "us" | "usec" | "µsec" | "microsecond" | "microseconds" => 1e-6,
        "ms" | "msec" | "millisecond" | "milliseconds" => 1e-3,
        "s" | "sec" | "secs" | "second" | "seconds" | "" => 1.0,
        "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86_400.0,
        _ => return None,
    })
}

/// The ImageDescription of an image.
pub(super) fn describe(info: &ImageInfo) -> String {
    let shape = info.shape;
    let mut text = String::from("ImageJ=1.53t\n");
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{key}={value}").expect("writing to a string cannot fail");
    };
    if shape.planes() > 1 {
        line("images", &shape.planes());
        for (key, len) in [("channels", shape.c), ("slices", shape.z), ("frames", shape.t)] {
            if len > 1 {
                line(key, &len);
            }
        }
        let several = [shape.c, shape.z, shape.t].iter().filter(|&&len| len > 1).count();
        if several > 1 || shape.c > 1 || shape.t > 1 {
            line("hyperstack", &true);
        }
    }
    if info.pixel_size_um.is_some() || info.z_step_um.is_some() {
        line("unit", &"micron");
    }
    if let (Some((_, unit)), Some(_)) = (&info.extra.y_unit, info.pixel_size_um) {
        line("yunit", unit);
    }
    if let Some(step) = info.z_step_um {
        line("spacing", &step);
    }
    if let Some(OtherGrid { units, spacing, .. }) = other_grid(info) {
        units.iter().filter(|(key, value)| is_clean(key, value)).for_each(|(key, value)| line(key, value));
        if let Some(spacing) = spacing {
            line("spacing", spacing);
        }
    }
    if let Some(interval) = info.frame_interval_s {
        line("finterval", &interval);
    }
    for (key, value) in &info.extra.imagej {
        // A calibration of grey values belongs to the integers of the source.
        let calibration = matches!(key.as_str(), "cf" | "c0" | "c1" | "c2" | "c3" | "c4" | "vunit");
        let integer = matches!(info.pixel_type, PixelType::U8 | PixelType::U16);
        if is_clean(key, value) && !OWN_KEYS.contains(&key.as_str()) && (!calibration || integer) {
            line(key, value);
        }
    }
    text
}

/// Whether a line can hold them.
fn is_clean(key: &str, value: &str) -> bool {
    !key.contains(['\n', '\r', '\0', '=']) && !value.contains(['\n', '\r', '\0'])
}

/// The calibration of a result in the source's unit, where no length is known.
pub(super) fn other_grid(info: &ImageInfo) -> Option<&OtherGrid> {
    info.extra.other_grid.as_ref().filter(|_| info.pixel_size_um.is_none() && info.z_step_um.is_none())
}

/// Brings what ImageJ gives in pixels onto a grid that is finer by `scale` along Z, Y and X: the origin of coordinates,
/// and a resolution in time. Selections and overlays, in a binary form of ImageJ's own, are dropped.
pub(crate) fn rescale(extra: &mut Extra, scale: [f64; 3]) {
    if scale == [1.0; 3] {
        return;
    }
    for (key, value) in &mut extra.imagej {
        let axis = ["zorigin", "yorigin", "xorigin"].iter().position(|origin| key == origin);
        if let (Some(axis), Ok(origin)) = (axis, value.parse::<f64>()) {
            *value = (origin * scale[axis]).to_string();
        }
    }
    if let Some((pixels_per_unit, _)) = &mut extra.y_unit {
        *pixels_per_unit *= scale[1];
    }
    if let Some(OtherGrid { pixels_per_unit: [y, x], spacing, .. }) = &mut extra.other_grid {
        (*y, *x) = (*y * scale[1], *x * scale[2]);
        *spacing = spacing.map(|spacing| spacing / scale[0]);
    }
    edit(extra, |blocks| blocks.retain(|(kind, _)| kind != b"roi " && kind != b"over"));
}

/// Brings slice labels, one for each page of the file, into the order in which planes are written: `pages` are the pages
/// of these.
pub(super) fn sort_labels(extra: &mut Extra, pages: &[usize]) {
    if pages.is_sorted() {
        return;
    }
    edit(extra, |blocks| {
        let labels: Vec<_> = blocks.extract_if(.., |block| &block.0 == b"labl").collect();
        let mut order = pages.to_vec();
        order.sort_unstable();
        if labels.len() == pages.len() {
            let number = |page: &usize| order.binary_search(page).expect("it is one of them");
            let at = blocks.iter().position(|(kind, _)| kind != b"info").unwrap_or(blocks.len());
            blocks.splice(at..at, pages.iter().map(|page| labels[number(page)].clone()));
        }
    });
}

/// Leaves what belongs to one channel of an image of this shape: Info and properties of the image, its labels, range and
/// lookup table. Selections and overlays stay.
pub(crate) fn keep_channel(extra: &mut Extra, channel: usize, shape: Shape) {
    if shape.c == 1 {
        return;
    }
    // How several channels are shown.
    extra.imagej.retain(|(key, _)| key != "mode");
    extra.ome_xml = extra.ome_xml.take().map(|xml| ome::keep_channel(&xml, channel).unwrap_or(xml));
    edit(extra, |blocks| {
        for (kind, count) in [(b"labl", shape.planes()), (b"luts", shape.c)] {
            let fits = blocks.iter().filter(|block| &block.0 == kind).count() == count;
            let mut number = 0..;
            blocks.retain(|block| &block.0 != kind || number.next().is_some_and(|i| fits && i % shape.c == channel));
        }
        for (_, range) in blocks.iter_mut().filter(|(kind, bytes)| kind == b"rang" && bytes.len() == 16 * shape.c) {
            *range = range[16 * channel..][..16].to_vec();
        }
    });
}

/// Changes ImageJ's blocks; what is damaged is dropped.
fn edit(extra: &mut Extra, change: impl FnOnce(&mut Vec<Block>)) {
    extra.imagej_metadata = extra.imagej_metadata.take().and_then(|metadata| {
        let mut blocks = decode(&metadata)?;
        change(&mut blocks);
        let (counts, data) = encode(&blocks)?;
        Some(ImageJMetadata { counts, data, big_endian: false })
    });
}

/// One block of tag 50839: its type, such as `info` or `labl`, and its bytes, little-endian.
type Block = ([u8; 4], Vec<u8>);

/// Tags 50838 and 50839 for the result, little-endian: what the source had and what still fits, with `note` at
/// the end of the Info text. `None` where there is nothing to say.
pub(super) fn binary_metadata(info: &ImageInfo, note: &str) -> Option<(Vec<u32>, Vec<u8>)> {
    let mut blocks = info.extra.imagej_metadata.as_ref().and_then(decode).unwrap_or_default();
    let count = |blocks: &[Block], kind: &[u8; 4]| blocks.iter().filter(|block| &block.0 == kind).count();
    // Labels are one a plane, lookup tables one a channel, ranges two doubles a channel.
    if count(&blocks, b"labl") != info.shape.planes() {
        blocks.retain(|block| &block.0 != b"labl");
    }
    if count(&blocks, b"luts") != info.shape.c {
        blocks.retain(|block| &block.0 != b"luts");
    }
    blocks.retain(|(kind, bytes)| kind != b"rang" || bytes.len() == 16 * info.shape.c);
    if !note.is_empty() {
        let mut utf16 = note.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        match blocks.iter_mut().find(|block| &block.0 == b"info") {
            Some((_, old)) => {
                if !old.is_empty() && !old.ends_with(&[b'\n', 0]) {
                    old.extend([b'\n', 0]);
                }
                old.append(&mut utf16);
            }
            // ImageJ wants the blocks in the order of their types here: Info first.
            None => blocks.insert(0, (*b"info", utf16)),
        }
    }
    encode(&blocks)
}

/// Width of the numbers in a block, for the change of byte order.
fn word(kind: &[u8; 4]) -> usize {
    match kind {
        b"info" | b"labl" | b"prop" => 2,
        b"rang" => 8,
        // Lookup tables are bytes; regions of interest are big-endian in every file.
        _ => 1,
    }
}

/// Blocks of the source; `None` where they are damaged, in which case they are dropped.
fn decode(metadata: &ImageJMetadata) -> Option<Vec<Block>> {
    let number = |bytes: &[u8]| {
        let bytes: [u8; 4] = bytes.try_into().ok()?;
        Some(if metadata.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    };
    let (&header_len, counts) = metadata.counts.split_first()?;
    let (header, mut data) = metadata.data.split_at_checked(header_len as usize)?;
    if number(header.get(..4)?)? != u32::from_be_bytes(*b"IJIJ") {
        return None;
    }
    let mut blocks = Vec::new();
    let mut counts = counts.iter();
    for entry in header[4..].chunks_exact(8) {
        let kind = number(&entry[..4])?.to_be_bytes();
        for _ in 0..number(&entry[4..])? {
            let (block, rest) = data.split_at_checked(*counts.next()? as usize)?;
            data = rest;
            let mut block = block.to_vec();
            if metadata.big_endian {
                block.chunks_exact_mut(word(&kind)).for_each(<[u8]>::reverse);
            }
            blocks.push((kind, block));
        }
    }
    Some(blocks)
}

fn encode(blocks: &[Block]) -> Option<(Vec<u32>, Vec<u8>)> {
    let mut header = b"JIJI".to_vec();
    for group in blocks.chunk_by(|a, b| a.0 == b.0) {
        header.extend(u32::from_be_bytes(group[0].0).to_le_bytes());
        header.extend(u32::try_from(group.len()).ok()?.to_le_bytes());
    }
    let mut counts = vec![u32::try_from(header.len()).ok()?];
    let mut data = header;
    for (_, block) in blocks {
        counts.push(u32::try_from(block.len()).ok()?);
        data.extend(block);
    }
    (!blocks.is_empty()).then_some((counts, data))
}
