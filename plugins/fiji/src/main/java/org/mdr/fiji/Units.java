package org.mdr.fiji;

import ij.ImagePlus;
import ij.measure.Calibration;

/** ImageJ's calibration → micrometres, which axial restoration needs. */
final class Units {
    private Units() {}

    /** Pixel size and Z step in µm. */
    static double[] voxelUm(ImagePlus imp) {
        Calibration calibration = imp.getCalibration();
        double xy = um(calibration.getXUnit());
        double z = um(calibration.getZUnit());
        double width = calibration.pixelWidth;
        double height = calibration.pixelHeight;
        // Stacks that were scanned downwards have a negative step.
        double step = Math.abs(calibration.pixelDepth);
        if (imp.getNSlices() < 2) {
            throw new MdrException(
                    MdrException.INVALID_OPTION,
                    "axial restoration needs a stack of at least 2 Z slices; \"" + imp.getTitle() + "\" has one"
                            + " (Image > Properties... says whether planes are slices, channels or frames)");
        }
        String advice = "; set them in Image > Properties..., in micron";
        if (Double.isNaN(xy) || Double.isNaN(z) || !(width > 0 && step > 0)) {
            throw new MdrException(
                    MdrException.INVALID_OPTION,
                    "axial restoration needs the pixel size and the Z step, which \"" + imp.getTitle() + "\" lacks"
                            + advice);
        }
        if (Math.abs(width - height) > 1e-6 * width) {
            throw new MdrException(
                    MdrException.INVALID_OPTION,
                    "axial restoration needs square pixels; these are " + width + " by " + height + " "
                            + calibration.getUnits() + advice);
        }
        return new double[] {width * xy, step * z};
    }

    /** Length of a unit in µm; NaN where it is none. */
    private static double um(String unit) {
        switch (unit.replace('\u03bc', '\u00b5')) {
            case "\u00b5m":
            case "um":
            case "micron":
            case "microns":
            case "micrometer":
            case "micrometers":
            case "micrometre":
                return 1;
            case "nm":
            case "nanometer":
            case "nanometers":
                return 1e-3;
            case "pm":
                return 1e-6;
            case "\u00c5":
            case "A":
            case "angstrom":
                return 1e-4;
            case "mm":
            case "millimeter":
            case "millimeters":
                return 1e3;
            case "cm":
            case "centimeter":
            case "centimeters":
                return 1e4;
            case "m":
            case "meter":
            case "meters":
                return 1e6;
            case "inch":
            case "inches":
            case "in":
                return 25_400;
            default:
                return Double.NaN;
        }
    }
}
