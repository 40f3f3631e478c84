//! Pages and metadata → planes (T, C, Z; Y·X f32 samples each). Opening walks the directories once and keeps 8 bytes
//! of each; a plane is read when it is asked for, chunk by chunk, into the caller's memory.
//!
//! What the pages are is decided by, in this order: OME-XML, ImageJ's description, tifffile's (`{"shape": …}`), and
//! else one axis of all pages, Z. Axes from the caller name what the file leaves open, or rename what it says.

use super::directory::{Directory, TiffFile, tag};
use super::page::{Format, Page};
use super::{imagej, ome};
use crate::image::{Extra, ImageJMetadata};
use crate::{Axes, Error, ImageInfo, PlaneIndex, PlaneSource, Result, Shape};
use std::collections::HashSet;
use std::path::Path;

/// Resolutions of a plain TIFF above this many µm per pixel are those of a printer (72 dpi), not of a microscope.
const MAX_PLAIN_PIXEL_SIZE_UM: f64 = 20.0;

/// A TIFF file whose planes are read as they are asked for.
pub struct TiffReader {
    file: TiffFile,
    info: ImageInfo,
    imagej: bool,
    pages: Pages,
    /// The page of each plane, planes in the order T, C, Z, Z running fastest.
    page_of_plane: Vec<usize>,
}

/// Where pages are.
enum Pages {
    /// The offsets of their directories.
    Directories(Vec<u64>),
    /// A single directory, and after its pixels those of all other pages: ImageJ beyond 4 GB, tifffile truncated.
    Contiguous { first: Page, offset: u64 },
}

/// Lengths of the axes of the pages, slowest first, and the page of each plane in that order.
struct Stack {
    /// The letter is `?` where the file gives a length alone.
    dims: Vec<(char, usize)>,
    pages: Vec<usize>,
}

/// Calibration and what is carried.
#[derive(Default)]
struct Metadata {
    pixel_size_um: Option<f64>,
    pixel_size_y_um: Option<f64>,
    z_step_um: Option<f64>,
    frame_interval_s: Option<f64>,
    extra: Extra,
}

impl TiffReader {
    /// Opens a file and reads its headers and metadata, no pixels. `axes` says what the pages are where the file does
    /// not, such as `TYX` for a plain stack that is a time series; the letters may also rename the axes that the file
    /// gives, slowest first. An axis in `axes` that the file has not gets length 1.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::BadTiff`] for what is no TIFF, damaged or truncated, also where the header claims more
    /// pixels than the file can hold; [`Error::UnsupportedTiff`], naming tag and value, for what mdr does not read;
    /// [`Error::InvalidOption`] where `axes` does not fit the pages.
    pub fn open(path: &Path, axes: Option<&Axes>) -> Result<Self> {
        let mut file = TiffFile::open(path)?;
        let walk = walk(&mut file)?;
        let directory = file.directory(walk.directories[walk.kept[0]])?;
        let description = file.text(&directory, tag::IMAGE_DESCRIPTION)?.unwrap_or_default();
        let imagej_description = imagej::Description::parse(&description);
        let imagej = imagej_description.is_some();
        let first = Page::read(&mut file, &directory, imagej)?;
        let format = first.format;

        let mut metadata = Metadata::default();
        let (stack, contiguous) = if ome::is_ome(&description) {
            let (stack, from_ome) = ome_stack(&file, &walk, &format, description)?;
            metadata = from_ome;
            (stack, None)
        } else {
            if let Some(description) = &imagej_description {
                metadata.z_step_um = description.z_step_um();
                metadata.frame_interval_s = description.frame_interval_s();
            }
            let metamorph = directory.get(tag::METAMORPH_PLANES).map(|planes| planes.count() as usize);
            described_stack(&file, &walk, &first, &description, imagej_description.as_ref(), metamorph)?
        };

        if metadata.pixel_size_um.is_none() {
            let imagej = imagej_description.as_ref();
            let (unit, y_unit) = (imagej.map(imagej::Description::unit_um), imagej.map(imagej::Description::y_unit_um));
            metadata.pixel_size_um = resolution(&mut file, &directory, tag::X_RESOLUTION, unit)?;
            match imagej.and_then(imagej::Description::other_y_unit) {
                Some(other) => {
                    let pixels_per_unit = file.rational(&directory, tag::Y_RESOLUTION).unwrap_or(1.0);
                    metadata.extra.y_unit = Some((pixels_per_unit, other.to_owned()));
                }
                None => metadata.pixel_size_y_um = resolution(&mut file, &directory, tag::Y_RESOLUTION, y_unit)?,
            }
        }
        if let Some(description) = imagej_description {
            // A resolution of inches or centimetres has a unit of its own.
            let own_unit = matches!(file.value(&directory, tag::RESOLUTION_UNIT)?, Some(2 | 3));
            let sides = [tag::Y_RESOLUTION, tag::X_RESOLUTION]
                .map(|tag| file.rational(&directory, tag).filter(|_| !own_unit).unwrap_or(1.0));
            metadata.extra.other_grid = description.other_grid(sides);
            metadata.extra.imagej = description.carried();
        }
        metadata.extra.white_is_zero = file.value(&directory, tag::PHOTOMETRIC)? == Some(0);
        metadata.extra.imagej_metadata = binary_metadata(&mut file, &directory)?;

        if let Some(&page) = stack.pages.iter().find(|&page| contiguous.is_none() && walk.odd.contains(page)) {
            let directory = file.directory(walk.directories[page])?;
            let other = Format::read(&mut file, &directory, imagej)?;
            return Err(file.unsupported(format!(
                "page {} is {}x{} {:?}, the first is {}x{} {:?}; mdr reads pages of one size and type: save the others \
                 in a file of their own",
                page + 1,
                other.width,
                other.height,
                other.pixel_type,
                format.width,
                format.height,
                format.pixel_type
            )));
        }
        let (axes, page_of_plane, [t, c, z]) = arrange(stack, axes)?;
        // In the result C runs fastest, then Z.
        let written = (0..t * z * c).map(|i| page_of_plane[(i / (z * c) * c + i % c) * z + i / c % z]);
        imagej::sort_labels(&mut metadata.extra, &written.collect::<Vec<_>>());
        let info = ImageInfo {
            axes,
            shape: Shape { t, c, z, y: format.height as usize, x: format.width as usize },
            pixel_type: format.pixel_type,
            pixel_size_um: metadata.pixel_size_um,
            pixel_size_y_um: differing(metadata.pixel_size_y_um, metadata.pixel_size_um),
            z_step_um: metadata.z_step_um,
            frame_interval_s: metadata.frame_interval_s,
            provenance: String::new(),
            extra: metadata.extra,
        };
        let pages = match contiguous {
            Some(offset) => Pages::Contiguous { first, offset },
            None => Pages::Directories(walk.directories),
        };
        Ok(Self { file, info, imagej, pages, page_of_plane })
    }
}

impl PlaneSource for TiffReader {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn read_plane(&mut self, index: PlaneIndex, samples: &mut [f32]) -> Result<()> {
        let shape = self.info.shape;
        let PlaneIndex { t, c, z } = index;
        if t >= shape.t || c >= shape.c || z >= shape.z || samples.len() != shape.plane_len() {
            return Err(Error::ShapeMismatch {
                expected: format!("a plane of {shape:?} and a buffer of {} samples", shape.plane_len()),
                found: format!("{index:?} and {} samples", samples.len()),
            });
        }
        let page = self.page_of_plane[(t * shape.c + c) * shape.z + z];
        match &self.pages {
            Pages::Directories(offsets) => {
                let directory = self.file.directory(offsets[page])?;
                let page = Page::read(&mut self.file, &directory, self.imagej)?;
                if (page.format.width as usize, page.format.height as usize) != (shape.x, shape.y) {
                    return Err(self.file.bad("the file was changed while it was read"));
                }
                page.samples(&mut self.file, samples)
            }
            Pages::Contiguous { first, offset } => {
                // Checked against the length of the file when it was opened.
                let offset = offset + page as u64 * first.format.plane_bytes();
                first.contiguous(offset).samples(&mut self.file, samples)
            }
        }
    }
}

/// The directories of a file.
struct Walk {
    /// Offsets of all directories, in the order of the file.
    directories: Vec<u64>,
    /// Numbers of those that are pages: not reduced copies, not masks.
    kept: Vec<usize>,
    /// Numbers of pages that differ in size or type from the first.
    odd: HashSet<usize>,
}

/// Walks all directories, checks each page, and holds the pixels that they claim against the length of the file.
fn walk(file: &mut TiffFile) -> Result<Walk> {
    let mut walk = Walk { directories: Vec::new(), kept: Vec::new(), odd: HashSet::new() };
    let mut seen = HashSet::new();
    let mut first: Option<(Format, bool)> = None;
    let mut least_bytes = 0u64;
    let mut offset = file.first_directory;
    while offset != 0 {
        if !seen.insert(offset) {
            return Err(file.bad(format!("damaged TIFF: its directories run in a loop (at byte {offset})")));
        }
        let directory = file.directory(offset)?;
        let reduced = file.value(&directory, tag::NEW_SUBFILE_TYPE)?.unwrap_or(0) & 0b101 != 0
            || file.value(&directory, tag::SUBFILE_TYPE)? == Some(2);
        if !reduced {
            let imagej = match first {
                Some((_, imagej)) => imagej,
                None => file.text(&directory, tag::IMAGE_DESCRIPTION)?.is_some_and(|text| text.starts_with("ImageJ=")),
            };
            let format = Format::read(file, &directory, imagej)?;
            let (reference, _) = first.get_or_insert((format, imagej));
            if !format.matches(reference) {
                walk.odd.insert(walk.directories.len());
            }
            least_bytes = least_bytes.saturating_add(format.least_file_bytes());
            if least_bytes > file.len {
                return Err(file.bad(format!(
                    "truncated or damaged TIFF: its {} pages so far, the last of {}x{} pixels, cannot fit into {} bytes",
                    walk.kept.len() + 1,
                    format.width,
                    format.height,
                    file.len
                )));
            }
            walk.kept.push(walk.directories.len());
        }
        walk.directories.push(offset);
        offset = directory.next;
    }
    if walk.kept.is_empty() {
        return Err(file.bad("damaged TIFF: there is no page in it"));
    }
    Ok(walk)
}

/// The stack and the metadata that OME-XML describes.
fn ome_stack(file: &TiffFile, walk: &Walk, format: &Format, xml: String) -> Result<(Stack, Metadata)> {
    let name = file.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let ome = ome::parse(&xml, walk.directories.len(), &name).map_err(|refusal| match refusal {
        ome::Refusal::Bad(message) => file.bad(message),
        ome::Refusal::Unsupported(message) => file.unsupported(message),
    })?;
    if (ome.size_x, ome.size_y) != (format.width as usize, format.height as usize) {
        return Err(file.bad(format!(
            "OME-XML says {}x{} pixels, the pages have {}x{}",
            ome.size_x, ome.size_y, format.width, format.height
        )));
    }
    let metadata = Metadata {
        pixel_size_um: ome.pixel_size_um,
        pixel_size_y_um: ome.pixel_size_y_um,
        z_step_um: ome.z_step_um,
        frame_interval_s: ome.frame_interval_s,
        extra: Extra { ome_xml: Some(xml), ..Extra::default() },
    };
    Ok((Stack { dims: ome.dims, pages: ome.pages }, metadata))
}

/// The stack that ImageJ's, tifffile's or no description describes, and where its samples start if a single
/// directory stands for several planes, as many as `metamorph` says in a file of MetaMorph's: the others follow its
/// pixels.
fn described_stack(
    file: &TiffFile,
    walk: &Walk,
    first: &Page,
    description: &str,
    imagej: Option<&imagej::Description>,
    metamorph: Option<usize>,
) -> Result<(Stack, Option<u64>)> {
    let mut planes = walk.kept.len();
    // tifffile describes what one call has written: a single page says nothing of those that other calls added.
    let says = |dims: &Vec<_>| imagej.is_none() && (planes == 1 || product(dims) > 1);
    let shape = shape_description(description, &first.format).filter(says);
    let promised = match imagej {
        Some(imagej) => imagej.images(),
        // A MetaMorph stack that another program has saved page by page keeps the tag.
        None => shape.as_deref().map(product).or(metamorph.filter(|_| planes == 1)),
    };
    let mut contiguous = None;
    if let Some(promised) = promised.filter(|&promised| promised > 1 && planes == 1) {
        let Some(offset) = first.contiguous_offset() else {
            return Err(file.bad(format!("the description promises {promised} planes, the file has one")));
        };
        file.check_range(offset, first.format.plane_bytes().saturating_mul(promised as u64))?;
        (planes, contiguous) = (promised, Some(offset));
    }
    let dims = match (imagej, shape) {
        (Some(imagej), _) => imagej.dims(planes),
        (None, Some(dims)) => Some(dims),
        (None, None) => Some(vec![('?', planes)]),
    };
    let Some(dims) = dims.filter(|_| promised.is_none_or(|promised| promised == planes)) else {
        return Err(file.bad(format!(
            "the description and the number of planes, {planes}, contradict each other: the file is truncated, or was \
             changed by a program that left the description as it was"
        )));
    };
    let pages = if contiguous.is_some() { (0..planes).collect() } else { walk.kept.clone() };
    Ok((Stack { dims, pages }, contiguous))
}

fn product(dims: &[(char, usize)]) -> usize {
    dims.iter().fold(1, |product, &(_, len)| product.saturating_mul(len))
}

/// The lengths in tifffile's description, `{"shape": [5, 64, 64], "axes": "ZYX"}`, where it fits the pages.
fn shape_description(text: &str, format: &Format) -> Option<Vec<(char, usize)>> {
    if !text.starts_with('{') {
        return None;
    }
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    let lengths: Option<Vec<usize>> =
        json.get("shape")?.as_array()?.iter().map(|len| usize::try_from(len.as_u64()?).ok()).collect();
    let lengths = lengths.filter(|lengths| !lengths.contains(&0))?;
    let (outer, plane) = lengths.split_at_checked(lengths.len().checked_sub(2)?)?;
    if plane != [format.height as usize, format.width as usize] {
        return None;
    }
    let letters: Vec<char> = json.get("axes").and_then(|axes| axes.as_str()).unwrap_or("").chars().collect();
    let distinct = letters.iter().enumerate().all(|(i, letter)| !letters[..i].contains(letter));
    let named = letters.len() == lengths.len() && distinct;
    let letter = |i: usize| if named && "TCZ".contains(letters[i]) { letters[i] } else { '?' };
    Some(outer.iter().enumerate().map(|(i, &len)| (letter(i), len)).collect())
}

/// Pixel size in µm from the resolution tags. `unit`: the unit of ImageJ's description, for its files.
fn resolution(file: &mut TiffFile, directory: &Directory, tag: u16, unit: Option<Option<f64>>) -> Result<Option<f64>> {
    let Some(pixels_per_unit) = file.rational(directory, tag) else { return Ok(None) };
    if let Some(Some(unit)) = unit {
        return Ok(Some(unit / pixels_per_unit));
    }
    let unit = match file.value(directory, tag::RESOLUTION_UNIT)? {
        Some(2) => 25_400.0,
        Some(3) => 10_000.0,
        _ => return Ok(None),
    };
    Ok(Some(unit / pixels_per_unit).filter(|&size| size <= MAX_PLAIN_PIXEL_SIZE_UM))
}

/// The size along Y where it is another one than along X, beyond what a rational number rounds away.
fn differing(y: Option<f64>, x: Option<f64>) -> Option<f64> {
    y.filter(|&y| x.is_some_and(|x| (y / x - 1.0).abs() > 1e-5))
}

/// ImageJ's tags 50838 and 50839.
fn binary_metadata(file: &mut TiffFile, directory: &Directory) -> Result<Option<ImageJMetadata>> {
    let (Some(&counts), Some(&data)) = (directory.get(tag::IMAGEJ_COUNTS), directory.get(tag::IMAGEJ_DATA)) else {
        return Ok(None);
    };
    let counts = file.uints(&counts, counts.count())?.into_iter().map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    let counts = counts.collect();
    Ok(Some(ImageJMetadata { counts, data: file.bytes(&data)?, big_endian: file.big_endian }))
}

/// Names the axes of a stack; gives the axes in the order of the source, the page of each plane in the order T, C,
/// Z, and the lengths of T, C and Z.
fn arrange(mut stack: Stack, axes: Option<&Axes>) -> Result<(Axes, Vec<usize>, [usize; 3])> {
    let planes = stack.pages.len();
    stack.dims.retain(|&(_, len)| len > 1);
    let found = |dims: &[(char, usize)]| match dims {
        [] => "one plane".to_string(),
        [('?', _)] => format!("{planes} pages, and does not say what they are"),
        dims => {
            let list: Vec<_> = dims.iter().map(|(axis, len)| format!("{axis} {len}")).collect();
            format!("{planes} planes ({})", list.join(", "))
        }
    };
    let letters = axes.map(|axes| axes.as_str().trim_end_matches("YX"));
    match letters {
        // Every axis of the file that has a name is among the caller's: the file knows the order of its pages.
        Some(letters) if stack.dims.iter().all(|&(axis, _)| letters.contains(axis)) => {}
        // Renamed, slowest first.
        Some(letters) if letters.len() == stack.dims.len() => {
            for (dim, letter) in stack.dims.iter_mut().zip(letters.chars()) {
                dim.0 = letter;
            }
        }
        // One letter for pages that have no names.
        Some(letters) if letters.len() == 1 && stack.dims.iter().all(|dim| dim.0 == '?') => {
            stack.dims = letters.chars().map(|letter| (letter, planes)).collect();
        }
        Some(_) if planes > 1 => {
            return Err(Error::InvalidOption(format!(
                "axes {} do not say how the pages are divided: the file has {}; give one letter for all pages, such as \
                 ZYX or TYX, or as many as there are lengths, or save the file as an ImageJ hyperstack or OME-TIFF",
                axes.map_or("", Axes::as_str),
                found(&stack.dims)
            )));
        }
        Some(_) => {}
        None => {
            let named = stack.dims.iter().any(|dim| dim.0 != '?');
            if !named && !stack.dims.is_empty() {
                stack.dims = vec![('Z', planes)];
            }
            // Beside axes with names: planes are normalised by channel, so that an axis counts as C only by its name.
            for axis in ['Z', 'T'] {
                if stack.dims.iter().all(|dim| dim.0 != axis)
                    && let Some(dim) = stack.dims.iter_mut().find(|dim| dim.0 == '?')
                {
                    dim.0 = axis;
                }
            }
            if stack.dims.iter().any(|dim| dim.0 == '?') {
                let list: Vec<_> = stack.dims.iter().map(|(axis, len)| format!("{axis} {len}")).collect();
                return Err(Error::InvalidOption(format!(
                    "the file has planes {}, of which mdr does not know those marked ?: save what they number in \
                     files of their own, with the axes T, C, Z at most",
                    list.join(", ")
                )));
            }
        }
    }
    let length = |axis: char| stack.dims.iter().find(|dim| dim.0 == axis).map_or(1, |dim| dim.1);
    let stride = |axis: char| {
        let behind = stack.dims.iter().skip_while(|dim| dim.0 != axis).skip(1);
        behind.map(|dim| dim.1).product::<usize>()
    };
    let [t, c, z] = ['T', 'C', 'Z'].map(length);
    let [stride_t, stride_c, stride_z] = ['T', 'C', 'Z'].map(stride);
    let mut page_of_plane = Vec::with_capacity(planes);
    for i in 0..t {
        for j in 0..c {
            page_of_plane.extend((0..z).map(|k| stack.pages[i * stride_t + j * stride_c + k * stride_z]));
        }
    }
    let axes = match axes {
        Some(axes) if letters.is_some_and(|letters| stack.dims.iter().all(|dim| letters.contains(dim.0))) => {
            // The letters of length 1 that only the caller named go in front.
            let source: String = stack.dims.iter().map(|dim| dim.0).collect();
            let extra = axes.as_str().chars().filter(|&letter| !"YX".contains(letter) && !source.contains(letter));
            if source.is_empty() {
                axes.clone()
            } else {
                Axes::parse(&format!("{}{source}YX", extra.collect::<String>()))?
            }
        }
        _ => Axes::parse(&format!("{}YX", stack.dims.iter().map(|dim| dim.0).collect::<String>()))?,
    };
    Ok((axes, page_of_plane, [t, c, z]))
}
