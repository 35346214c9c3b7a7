from ui.play_page import play_page

play_page()
