package org.mdr.fiji;

import java.lang.reflect.Array;

/** Pixel types as Java arrays have them; the integers are unsigned. */
public enum PixelType {
    /** byte[] */
    U8(1, byte.class),
    /** short[] */
    U16(2, short.class),
    /** float[] */
    F32(3, float.class);

    private final int number;
    private final Class<?> element;

    PixelType(int number, Class<?> element) {
        this.number = number;
        this.element = element;
    }

    /** The number of {@code MdrPixelType} in mdr.h. */
    int number() {
        return number;
    }

    int bytes() {
        return this == U8 ? 1 : this == U16 ? 2 : 4;
    }

    Object allocate(int length) {
        return Array.newInstance(element, length);
    }

    /** The type of an array's elements. */
    public static PixelType of(Object array) {
        for (PixelType type : values()) {
            if (array != null && array.getClass().getComponentType() == type.element) {
                return type;
            }
        }
        throw new MdrException(MdrException.INVALID_ARGUMENT, "pixels: expected byte[], short[] or float[]");
    }
}
