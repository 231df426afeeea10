"""All items at once, without rows x items: softmax, ranks and the best of their scores, tile by tile; ids, texts, bonuses."""
