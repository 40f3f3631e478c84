package org.mdr.fiji;

import java.io.File;
import java.util.Arrays;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.Function;
import java.util.function.Supplier;

/**
 * The models that commands have used last stay open: to open one, and to get the memory that it works in, takes as long
 * as to restore a small image, and a macro calls a command for every image.
 */
final class OpenModels {
    /** How many stay: one for each task. */
    private static final int KEPT = 3;

    /** Those used last at the end. */
    private static final Map<List<Object>, Entry> OPEN = new LinkedHashMap<>(8, 0.75f, true);

    private OpenModels() {}

    private static final class Entry {
        final MdrModel model;
        int users;

        Entry(MdrModel model) {
            this.model = model;
        }
    }

    /**
     * Works with the model of a task, or that of a file. A file that has changed is read again.
     *
     * @param name {@link RestoreOptions#BUILT_IN} or a path
     */
    static <T> T with(String name, String task, Function<MdrModel, T> work) {
        if (name.equals(RestoreOptions.BUILT_IN)) {
            return with(Arrays.asList(name, task), () -> MdrModel.builtIn(task), work);
        }
        File file = new File(name);
        if (file.isFile() && !name.toLowerCase(Locale.ROOT).endsWith(".yaml")) {
            List<Object> key = Arrays.asList(file.getAbsolutePath(), file.lastModified(), file.length());
            return with(key, () -> MdrModel.load(name), work);
        }
        // Of a folder nobody can tell at a glance whether it is as it was.
        try (MdrModel model = MdrModel.load(name)) {
            return work.apply(model);
        }
    }

    private static <T> T with(List<Object> key, Supplier<MdrModel> opener, Function<MdrModel, T> work) {
        Entry entry;
        synchronized (OPEN) {
            entry = OPEN.get(key);
            if (entry == null) {
                entry = new Entry(opener.get());
                OPEN.put(key, entry);
            }
            entry.users++;
            closeOld();
        }
        try {
            return work.apply(entry.model);
        } finally {
            synchronized (OPEN) {
                entry.users--;
                closeOld();
            }
        }
    }

    private static void closeOld() {
        Iterator<Entry> oldest = OPEN.values().iterator();
        while (OPEN.size() > KEPT && oldest.hasNext()) {
            Entry entry = oldest.next();
            if (entry.users == 0) {
                entry.model.close();
                oldest.remove();
            }
        }
    }
}
