package org.mdr.fiji;

import java.lang.reflect.Array;

/** Pixel types as Java arrays have them; the integers are unsigned. */
enum Pixels {
    U8(byte.class),
    U16(short.class),
    F32(float.class);

    private final Class<?> element;

    Pixels(Class<?> element) {
        this.element = element;
    }

    Object allocate(int length) {
        return Array.newInstance(element, length);
    }

    static Pixels of(Object array) {
        for (Pixels type : values()) {
            if (array != null && array.getClass().getComponentType() == type.element) {
                return type;
            }
        }
        throw new MdrException(MdrException.INVALID_ARGUMENT, "pixels: expected byte[], short[] or float[]");
    }
}
