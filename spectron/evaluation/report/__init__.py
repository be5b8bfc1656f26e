"""Pages of figures, pictures and sounds: what every report.html shares."""
