package org.mdr.fiji;

import ij.IJ;
import ij.gui.GenericDialog;
import ij.plugin.PlugIn;
import java.util.Map;

/** Plugins ▸ Restore ▸ Model Info…: what a model is, line by line into the Log window; for macros also as text. */
public class ModelInfo_ implements PlugIn {
    private static final String COMMAND = "Model Info...";

    /**
     * What a model is: its task, training, normalisation, field, licence.
     *
     * @param options {@code model=} with a path or the name of a built-in model's task
     */
    public static String apply(String options) {
        try {
            return describe(MacroOptions.parse(options, "model").getOrDefault("model", RestoreOptions.BUILT_IN));
        } catch (RuntimeException failure) {
            throw new Commands.Failed(COMMAND, failure);
        }
    }

    @Override
    public void run(String arg) {
        String macro = Commands.macroOptions();
        try {
            if (macro == null) {
                GenericDialog dialog = new GenericDialog(COMMAND);
                ModelField.add(dialog, RestoreOptions.BUILT_IN);
                dialog.showDialog();
                if (dialog.wasCanceled()) {
                    return;
                }
                IJ.log(describe(dialog.getNextString().trim()));
            } else {
                IJ.log(describe(MacroOptions.parse(macro, "model").getOrDefault("model", RestoreOptions.BUILT_IN)));
            }
        } catch (RuntimeException failure) {
            Commands.fail(COMMAND, macro == null, failure);
        }
    }

    private static String describe(String name) {
        StringBuilder text = new StringBuilder("libmdr " + MdrModel.version() + "\n");
        if (name.equals(RestoreOptions.BUILT_IN)) {
            for (Map<String, Object> facts : MdrModel.builtInModels()) {
                list(text, facts);
            }
            return text.toString();
        }
        try (MdrModel model = MdrModel.load(name)) {
            list(text, model.facts());
        }
        return text.toString();
    }

    private static void list(StringBuilder text, Map<String, Object> facts) {
        text.append('\n');
        facts.forEach((key, value) -> {
            if (value != null && !value.equals("")) {
                String shown = value instanceof Double ? value.toString().replaceAll("\\.0$", "") : value.toString();
                text.append(String.format("%-22s%s%n", key.replace('_', ' '), shown));
            }
        });
    }
}
