package org.mdr.fiji;

/** What libmdr, or the plug-in in its place, could not do: one line that says what was wrong, expected, and to be done. */
public class MdrException extends RuntimeException {
    /** The calling program is wrong. */
    public static final int INVALID_ARGUMENT = 1;
    /** Image, model and buffer do not fit each other. */
    public static final int SHAPE_MISMATCH = 3;
    /** An option is unknown, malformed, or makes no sense for this image and model. */
    public static final int INVALID_OPTION = 4;
    /** The model is damaged, contradicts itself, or uses what mdr lacks. */
    public static final int BAD_MODEL = 5;
    /** A file could not be read or written. */
    public static final int IO = 6;
    /** The progress callback, or Escape, has stopped the run. */
    public static final int CANCELLED = 8;
    /** A defect of mdr. */
    public static final int INTERNAL = 9;

    private final int status;

    /** A failure with its status: a number of {@code MdrStatus} in {@code mdr.h}. */
    public MdrException(int status, String message) {
        super(message);
        this.status = status;
    }

    MdrException(int status, String message, Throwable cause) {
        super(message, cause);
        this.status = status;
    }

    /** The number of {@code MdrStatus} in {@code mdr.h}. */
    public int status() {
        return status;
    }
}
