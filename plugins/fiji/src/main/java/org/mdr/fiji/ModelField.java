package org.mdr.fiji;

import ij.gui.GenericDialog;
import ij.io.OpenDialog;
import java.awt.Button;
import java.awt.FlowLayout;
import java.awt.GridBagConstraints;
import java.awt.Insets;
import java.awt.Panel;
import java.awt.TextField;

/** The field of a dialog for a model: {@code built-in} or a path, with a button to choose a file. */
final class ModelField {
    private ModelField() {}

    static void add(GenericDialog dialog, String model) {
        dialog.addStringField("Model", model, 28);
        TextField field = (TextField) dialog.getStringFields().lastElement();
        Button browse = new Button("Browse...");
        browse.addActionListener(event -> {
            OpenDialog open = new OpenDialog("Model: .onnx, .zip or rdf.yaml");
            if (open.getPath() != null) {
                field.setText(open.getPath());
            }
        });
        Panel panel = new Panel(new FlowLayout(FlowLayout.RIGHT, 0, 0));
        panel.add(browse);
        dialog.addPanel(panel, GridBagConstraints.EAST, new Insets(0, 0, 5, 0));
    }
}
