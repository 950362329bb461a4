"""Scripts that train and measure: one per table. They print progress and results only."""

from recipes.quiet import import_keras

import_keras()
