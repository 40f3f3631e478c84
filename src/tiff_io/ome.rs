//! OME-XML, both ways. Reading takes the first and only image's sizes, calibration and the pages of its planes;
//! writing replaces in the source's text what changed (sizes, sample type, calibration, pages) and leaves the rest
//! (channel names, instrument, annotations) as it stands, byte for byte.

use super::imagej::{unit_s, unit_um};
use crate::{ImageInfo, PixelType};
use roxmltree::{Document, Node};
use std::ops::Range;

/// What OME-XML says of the pixels.
pub(super) struct Ome {
    /// Lengths of T, C and Z in the order in which they are written, slowest first.
    pub dims: Vec<(char, usize)>,
    /// For each plane in the order of `dims`, the number of its page.
    pub pages: Vec<usize>,
    pub size_x: usize,
    pub size_y: usize,
    pub pixel_size_um: Option<f64>,
    pub pixel_size_y_um: Option<f64>,
    pub z_step_um: Option<f64>,
    pub frame_interval_s: Option<f64>,
}

/// Why OME-XML could not be used.
pub(super) enum Refusal {
    Bad(String),
    Unsupported(String),
}

/// Whether a description is OME-XML.
pub(super) fn is_ome(text: &str) -> bool {
    text.trim_end().ends_with("OME>") && text.contains("<") && text.contains("OME")
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|n| n.tag_name().name() == name)
}

fn children<'a, 'i: 'a>(node: Node<'a, 'i>, name: &'a str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(move |n| n.tag_name().name() == name)
}

/// Parses the OME-XML of a file of `page_count` pages, called `file_name`.
pub(super) fn parse(text: &str, page_count: usize, file_name: &str) -> Result<Ome, Refusal> {
    let document = Document::parse(text).map_err(|e| Refusal::Bad(format!("damaged OME-XML: {e}")))?;
    let root = document.root_element();
    if let Some(binary_only) = child(root, "BinaryOnly") {
        return Err(Refusal::Unsupported(format!(
            "OME-TIFF whose metadata is in another file ({}); export the image as one self-contained OME-TIFF",
            binary_only.attribute("MetadataFile").unwrap_or("not named")
        )));
    }
    let images = children(root, "Image").count();
    if images > 1 {
        return Err(Refusal::Unsupported(format!(
            "OME-TIFF with {images} images (series); mdr reads one: save each in a file of its own"
        )));
    }
    let Some(pixels) = child(root, "Image").and_then(|image| child(image, "Pixels")) else {
        return Err(Refusal::Bad("damaged OME-XML: there is no Image with Pixels".into()));
    };
    let size = |axis: char| {
        let name = format!("Size{axis}");
        let value = pixels.attribute(name.as_str()).and_then(|value| value.trim().parse::<usize>().ok());
        value.filter(|&size| size > 0).ok_or_else(|| Refusal::Bad(format!("damaged OME-XML: Pixels lacks {name}")))
    };
    let order = pixels.attribute("DimensionOrder").unwrap_or("XYCZT");
    let fastest_first = order.strip_prefix("XY").unwrap_or("");
    if fastest_first.len() != 3 || !"CZT".chars().all(|axis| fastest_first.contains(axis)) {
        return Err(Refusal::Bad(format!("damaged OME-XML: DimensionOrder is {order:?}")));
    }
    let mut dims = Vec::new();
    for axis in fastest_first.chars().rev() {
        dims.push((axis, size(axis)?));
    }
    let planes = dims.iter().try_fold(1usize, |product, &(_, len)| product.checked_mul(len));
    let Some(planes) = planes.filter(|&planes| planes <= page_count) else {
        let promised = dims.iter().map(|(axis, len)| format!("{axis} {len}")).collect::<Vec<_>>().join(", ");
        return Err(match foreign_file(root, pixels, file_name) {
            Some(other) => other,
            None => Refusal::Bad(format!("OME-XML promises planes {promised}, the file has {page_count} pages")),
        });
    };
    if let Some(other) = foreign_file(root, pixels, file_name) {
        return Err(other);
    }
    let pages = plane_pages(pixels, &dims, planes, page_count)?;
    let length = |name: &str| {
        let unit = pixels.attribute(format!("{name}Unit").as_str()).map_or(Some(1.0), unit_um)?;
        positive(pixels.attribute(name)?).map(|value| value * unit)
    };
    let second = unit_s(pixels.attribute("TimeIncrementUnit").unwrap_or("s"));
    let interval = pixels.attribute("TimeIncrement").and_then(positive);
    Ok(Ome {
        dims,
        pages,
        size_x: size('X')?,
        size_y: size('Y')?,
        pixel_size_um: length("PhysicalSizeX"),
        pixel_size_y_um: length("PhysicalSizeY"),
        z_step_um: length("PhysicalSizeZ"),
        frame_interval_s: interval.zip(second).map(|(value, unit)| value * unit),
    })
}

fn positive(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|value: &f64| value.is_finite() && *value > 0.0)
}

/// The refusal of pixels that are in other files than this one. A renamed file still counts as itself: then all
/// its planes name one file.
fn foreign_file(root: Node, pixels: Node, file_name: &str) -> Option<Refusal> {
    let uuids: Vec<_> = children(pixels, "TiffData").filter_map(|data| child(data, "UUID")).collect();
    let first = uuids.first()?.text();
    let own = |uuid: &Node| {
        uuid.attribute("FileName") == Some(file_name)
            || root.attribute("UUID").is_some_and(|own| uuid.text() == Some(own))
    };
    let other = uuids.iter().find(|uuid| !own(uuid))?;
    if root.attribute("UUID").is_none() && uuids.iter().all(|uuid| uuid.text() == first) {
        return None;
    }
    Some(Refusal::Unsupported(format!(
        "OME-TIFF with planes in another file ({}); export the image as one self-contained OME-TIFF",
        other.attribute("FileName").unwrap_or("not named")
    )))
}

/// The page of each plane, planes in the order of `dims`.
fn plane_pages(pixels: Node, dims: &[(char, usize)], planes: usize, page_count: usize) -> Result<Vec<usize>, Refusal> {
    let mut pages = vec![usize::MAX; planes];
    let mut any = false;
    for data in children(pixels, "TiffData") {
        any = true;
        let number = |name: &str| data.attribute(name).and_then(|value| value.trim().parse::<usize>().ok());
        // Without IFD and PlaneCount an element stands for all pages; with IFD alone, for this one.
        let ifd = number("IFD").unwrap_or(0);
        let count = number("PlaneCount").unwrap_or(if data.has_attribute("IFD") { 1 } else { planes });
        let mut first = 0;
        for &(axis, len) in dims {
            let at = number(&format!("First{axis}")).unwrap_or(0);
            if at >= len {
                return Err(Refusal::Bad(format!("damaged OME-XML: TiffData has First{axis} {at} of {len}")));
            }
            first = first * len + at;
        }
        for i in 0..count.min(planes - first) {
            pages[first + i] = ifd.saturating_add(i);
        }
    }
    if !any {
        pages = (0..planes).collect();
    }
    match pages.iter().position(|&page| page >= page_count) {
        Some(plane) => Err(Refusal::Bad(format!(
            "OME-XML names no page of this file for plane {} of {planes}; the file has {page_count} pages",
            plane + 1
        ))),
        None => Ok(pages),
    }
}

/// The source's OME-XML for the result: planes in pages in the order T, Z, C (C fastest), `note` at the end of the
/// image's description. `None` where the text is no OME-XML.
pub(super) fn rewrite(text: &str, info: &ImageInfo, note: &str) -> Option<String> {
    let document = Document::parse(text).ok()?;
    let root = document.root_element();
    let image = child(root, "Image")?;
    let pixels = child(image, "Pixels")?;
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    // The file is no longer the one that the identifier was given to.
    edits.extend(root.attribute_node("UUID").map(|uuid| (uuid.range(), String::new())));
    edits.extend(children(root, "Image").skip(1).map(|other| (other.range(), String::new())));

    let shape = info.shape;
    let old_size = |axis: char| pixels.attribute(format!("Size{axis}").as_str())?.trim().parse::<usize>().ok();
    let kept = |axis: char| old_size(axis) == Some(shape.axis(axis));
    let mut attributes: Vec<(&str, String)> = vec![
        ("DimensionOrder", "XYCZT".into()),
        ("Type", type_name(info.pixel_type).into()),
        ("BigEndian", "false".into()),
    ];
    for (name, axis) in [("SizeX", 'X'), ("SizeY", 'Y'), ("SizeZ", 'Z'), ("SizeC", 'C'), ("SizeT", 'T')] {
        attributes.push((name, shape.axis(axis).to_string()));
    }
    let lengths = [
        ("PhysicalSizeX", "PhysicalSizeXUnit", info.pixel_size_um),
        ("PhysicalSizeY", "PhysicalSizeYUnit", info.pixel_height_um()),
        ("PhysicalSizeZ", "PhysicalSizeZUnit", info.z_step_um),
        ("TimeIncrement", "TimeIncrementUnit", info.frame_interval_s),
    ];
    for (name, unit_name, value) in lengths {
        if let Some(value) = value {
            let unit = if name == "TimeIncrement" { "s" } else { "µm" };
            attributes.extend([(name, value.to_string()), (unit_name, unit.into())]);
        }
    }
    let replaced = |name: &str| {
        matches!(name, "SignificantBits" | "Interleaved")
            || attributes.iter().any(|&(own, _)| own == name)
            || lengths.iter().any(|&(own, unit, _)| own == name || unit == name)
    };
    edits.extend(pixels.attributes().filter(|a| replaced(a.name())).map(|a| (a.range(), String::new())));
    let name_end = pixels.range().start + text.get(pixels.range())?.find("Pixels")? + "Pixels".len();
    let own = attributes.iter().map(|(name, value)| format!(" {name}=\"{value}\"")).collect::<String>();
    edits.push((name_end..name_end, own));

    // TiffData after the channels, as the schema wants it. Channels that are not those of the result, and planes
    // whose times and positions no longer fit, are dropped.
    let prefix = &text[pixels.range().start + 1..name_end - "Pixels".len()];
    let data = format!("<{prefix}TiffData IFD=\"0\" PlaneCount=\"{}\"/>", shape.planes());
    let same_channels = kept('C') && children(pixels, "Channel").count() == shape.c;
    let same_planes = kept('C') && kept('Z') && kept('T');
    let mut after = None;
    for node in pixels.children().filter(Node::is_element) {
        match node.tag_name().name() {
            "Channel" if same_channels => after = Some(node.range().end),
            "Channel" | "TiffData" | "BinData" | "MetadataOnly" => edits.push((node.range(), String::new())),
            "Plane" if !same_planes => edits.push((node.range(), String::new())),
            _ => {}
        }
    }
    let tag = tag_end(text, pixels.range(), name_end)?;
    if text[..tag].ends_with("/>") {
        edits.push((tag - 2..tag, format!(">{data}</{prefix}Pixels>")));
    } else {
        let at = after.unwrap_or(tag);
        edits.push((at..at, data));
    }

    // Regions of interest are given in pixels of the source.
    if !(kept('Z') && kept('Y') && kept('X')) {
        let regions = children(root, "ROI").chain(children(image, "ROIRef"));
        edits.extend(regions.map(|region| (region.range(), String::new())));
    }

    if !note.is_empty() {
        let note = note.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        match child(image, "Description") {
            Some(old) if old.has_children() => {
                let end = old.last_child()?.range().end;
                edits.push((end..end, format!("\n{note}")));
            }
            old => {
                let element = format!("<{prefix}Description>{note}</{prefix}Description>");
                let early = ["AcquisitionDate", "ExperimenterRef", "AcquiredDate"];
                let before = image.children().rfind(|n| early.contains(&n.tag_name().name()));
                let start = match before {
                    Some(node) => node.range().end,
                    None => tag_end(text, image.range(), image.range().start)?,
                };
                edits.push((old.map_or(start..start, |old| old.range()), element));
            }
        }
    }

    edited(text, edits)
}

/// OME-XML of one channel alone: the others, and their planes, go. `None` where it does not describe each of them.
pub(super) fn keep_channel(text: &str, channel: usize) -> Option<String> {
    let document = Document::parse(text).ok()?;
    let pixels = child(child(document.root_element(), "Image")?, "Pixels")?;
    let size = pixels.attribute_node("SizeC")?;
    let channels: Vec<_> = children(pixels, "Channel").collect();
    if size.value().trim().parse() != Ok(channels.len()) || channel >= channels.len() {
        return None;
    }
    let mut edits = vec![(size.range_value(), "1".into())];
    edits.extend(channels.iter().enumerate().filter(|(i, _)| *i != channel).map(|(_, c)| (c.range(), String::new())));
    for plane in children(pixels, "Plane") {
        let number = plane.attribute_node("TheC");
        match number.filter(|number| number.value().trim().parse() == Ok(channel)) {
            Some(number) => edits.push((number.range_value(), "0".into())),
            None => edits.push((plane.range(), String::new())),
        }
    }
    edited(text, edits)
}

/// The text with ranges of it replaced, none of which overlap.
fn edited(text: &str, mut edits: Vec<(Range<usize>, String)>) -> Option<String> {
    edits.sort_by_key(|(range, _)| (range.start, range.end));
    let mut result = String::with_capacity(text.len() + 512);
    let mut done = 0;
    for (range, new) in edits {
        result.push_str(text.get(done..range.start)?);
        result.push_str(&new);
        done = range.end;
    }
    result.push_str(text.get(done..)?);
    Some(result)
}

/// Where the start tag of an element ends, after its `>`; `from` is anywhere in it, outside quotes.
fn tag_end(text: &str, element: Range<usize>, from: usize) -> Option<usize> {
    let mut quote = None;
    for (i, c) in text.get(from..element.end)?.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (None, '>') => return Some(from + i + 1),
            _ => {}
        }
    }
    None
}

fn type_name(pixel_type: PixelType) -> &'static str {
    match pixel_type {
        PixelType::U8 => "uint8",
        PixelType::U16 => "uint16",
        PixelType::U32 => "uint32",
        PixelType::I8 => "int8",
        PixelType::I16 => "int16",
        PixelType::I32 => "int32",
        PixelType::F32 => "float",
        PixelType::F64 => "double",
    }
}
